// Muon, AdamW, clipping and row-sparse Adam against PyTorch's own (tests/golden/make/optimizers.py).
#include <torch/utils.h>

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "engram/train/adamw.h"
#include "engram/train/muon.h"
#include "engram/train/optimizer.h"
#include "engram/train/trainable_table.h"
#include "tests/model/parity.h"

namespace engram {
namespace {

using parity::expect_close;
constexpr int kSteps = 3;
const std::vector<std::string> kMatrices = {"wide", "tall", "square"};

const parity::Tensors& vectors() {
  static const parity::Tensors tensors = parity::load("optimizers");
  return tensors;
}
torch::Tensor start_of(const std::string& name) { return vectors().at(name + ".start").clone().requires_grad_(); }
torch::Tensor gradient_of(const std::string& name, int step) {
  return vectors().at(name + ".grad." + std::to_string(step)).clone();
}

MuonOptions muon_options(torch::Dtype dtype) {
  MuonOptions options;
  options.weight_decay = 0.1;
  options.ns_dtype = dtype;
  return options;
}

// All three matrices in one optimizer: the tall one shares a batch with the wide one, transposed.
std::map<std::string, torch::Tensor> run_muon(torch::Dtype dtype) {
  std::map<std::string, torch::Tensor> matrices;
  std::vector<MuonParameter> parameters;
  for (const std::string& name : kMatrices) {
    matrices[name] = start_of(name);
    parameters.push_back({name, matrices[name], {}});
  }
  Muon muon(parameters, muon_options(dtype));
  for (int step = 0; step < kSteps; ++step) {
    for (auto& [name, matrix] : matrices) matrix.mutable_grad() = gradient_of(name, step);
    muon.step(0.02);
  }
  return matrices;
}

TEST(Muon, EqualsPyTorchInFp32) {
  for (const auto& [name, matrix] : run_muon(torch::kFloat32))
    expect_close(matrix, vectors().at(name + ".muon_fp32"), 1e-5, name);
}

TEST(Muon, EqualsPyTorchInBf16WithinItsRounding) {
  for (const auto& [name, matrix] : run_muon(torch::kBFloat16))
    expect_close(matrix, vectors().at(name + ".muon_bf16"), 2e-2, name);
}

TEST(Muon, FusedProjectionsAndExpertsAreMatricesOfTheirOwn) {
  // [2 experts, two projections of 16 rows, 40 columns] against four single matrices.
  torch::manual_seed(3);
  const torch::Tensor start = torch::randn({2, 32, 40}), gradient = torch::randn({2, 32, 40});
  const torch::Tensor fused = start.clone().requires_grad_();
  Muon muon({{"fused", fused, {16, 16}}}, muon_options(torch::kFloat32));
  fused.mutable_grad() = gradient.clone();
  muon.step(0.02);
  for (int expert = 0; expert < 2; ++expert) {
    for (int projection = 0; projection < 2; ++projection) {
      const auto part = [&](const torch::Tensor& tensor) { return tensor[expert].narrow(0, projection * 16, 16); };
      const torch::Tensor single = part(start).clone().requires_grad_();
      Muon alone({{"single", single, {}}}, muon_options(torch::kFloat32));
      single.mutable_grad() = part(gradient).clone();
      alone.step(0.02);
      expect_close(part(fused), single, 1e-5, "expert " + std::to_string(expert));
    }
  }
}

TEST(Muon, NewtonSchulzBringsSingularValuesNearOne) {
  torch::manual_seed(1);
  const torch::Tensor values = torch::linalg_svdvals(newton_schulz(torch::randn({5, 40, 16}), 5));
  EXPECT_GT(values.min().item<double>(), 0.6);
  EXPECT_LT(values.max().item<double>(), 1.3);
  EXPECT_EQ(newton_schulz(torch::zeros({1, 8, 4}), 5).abs().max().item<double>(), 0.0);
}

// In double the batch goes through libtorch's products, in fp32 on the CPU matrix by matrix through ours.
TEST(Muon, NewtonSchulzMatrixByMatrixIsThatOfTheBatch) {
  torch::manual_seed(2);
  for (const auto& [rows, columns] : std::vector<std::pair<int64_t, int64_t>>{{40, 16}, {33, 33}, {70, 7}, {3, 1}}) {
    const torch::Tensor x = torch::randn({6, columns, rows}, torch::kDouble).transpose(1, 2);
    for (const int64_t steps : {0, 1, 4, 5})
      expect_close(newton_schulz(x.to(torch::kFloat), steps).to(torch::kDouble), newton_schulz(x.clone(), steps), 2e-4,
                   std::to_string(rows) + " x " + std::to_string(columns));
  }
}

TEST(Muon, RefusesSplitsThatDoNotAddUp) {
  EXPECT_THROW(Muon({{"w", torch::zeros({4, 4}), {1, 2}}}, {}), c10::Error);
  EXPECT_THROW(Muon({{"v", torch::zeros({4}), {}}}, {}), c10::Error);
}

TEST(AdamW, EqualsPyTorch) {
  torch::Tensor wide = start_of("wide"), vector = start_of("vector");
  AdamW adamw({{"wide", wide, true}, {"vector", vector, true}}, {});
  for (int step = 0; step < kSteps; ++step) {
    wide.mutable_grad() = gradient_of("wide", step);
    vector.mutable_grad() = gradient_of("vector", step);
    adamw.step(0.004);
  }
  expect_close(wide, vectors().at("wide.adamw"), 1e-6, "wide");
  expect_close(vector, vectors().at("vector.adamw"), 1e-6, "vector");
}

TEST(AdamW, DecaysOnlyWhatDecays) {
  torch::Tensor decays = torch::ones({4}).requires_grad_(), stays = torch::ones({4}).requires_grad_();
  AdamW adamw({{"decays", decays, true}, {"stays", stays, false}}, {});
  decays.mutable_grad() = torch::zeros({4});
  stays.mutable_grad() = torch::zeros({4});
  adamw.step(0.5);
  expect_close(decays, torch::full({4}, 0.95), 1e-6, "decays");
  expect_close(stays, torch::ones({4}), 0, "stays");
}

TEST(ClipGradients, EqualsPyTorchAndLeavesSmallOnesAlone) {
  std::vector<torch::Tensor> gradients;
  for (const std::string& name : kMatrices) gradients.push_back(gradient_of(name, 0));
  gradients.emplace_back();  // a parameter without a gradient
  const auto norm = [&] { return std::sqrt(gradient_squares(gradients).value()); };
  EXPECT_NEAR(norm(), vectors().at("clip.norm").item<double>(), 1e-6);
  scale_gradients(gradients, clip_scale(norm(), 0.05));
  expect_close(gradients[0], vectors().at("clip.wide"), 1e-6, "wide");
  EXPECT_NEAR(norm(), 0.05, 1e-6);
  EXPECT_EQ(1, clip_scale(0.05, 1.0));
  EXPECT_EQ(1, clip_scale(5, 0));  // 0: no clipping
}

TEST(GradientSquares, AreTheSameHoweverTheGradientIsDivided) {
  torch::manual_seed(7);
  const torch::Tensor gradient = torch::randn({5, 70, 300});
  const ExactSum whole = gradient_squares({gradient, torch::Tensor()});
  ExactSum divided = gradient_squares({gradient.narrow(0, 0, 1), gradient.narrow(0, 3, 2)});
  divided.add(gradient_squares({gradient.narrow(0, 1, 2)}));
  EXPECT_EQ(whole.words(), divided.words());
  EXPECT_NEAR(1, whole.value() / gradient.to(torch::kDouble).square().sum().item<double>(), 1e-14);
  EXPECT_EQ(8, gradient_squares({torch::ones({2, 2}), torch::ones({2, 2}, torch::kDouble)}).value());
}

RowSparseAdamOptions row_options(bool row_wise = false) {
  RowSparseAdamOptions options;
  options.row_wise = row_wise;
  return options;
}
torch::Tensor ids_of(std::vector<int64_t> ids) { return torch::tensor(ids, torch::kInt64); }

TEST(RowSparseAdam, EqualsDenseAdamWhenEveryRowOccurs) {
  torch::Tensor table = vectors().at("table.start").clone();
  RowSparseAdam adam(table, row_options());
  for (int step = 0; step < kSteps; ++step) {
    const torch::Tensor order = torch::randperm(table.size(0));
    adam.update(table, order, gradient_of("table", step).index_select(0, order), 0.02);
  }
  expect_close(table, vectors().at("table.adam"), 1e-6, "table");
}

TEST(RowSparseAdam, UntouchedRowsNeitherDecayNorCount) {
  // Row 1 sees two steps, row 2 one, in between: each is dense Adam over its own steps.
  torch::manual_seed(2);
  const torch::Tensor start = torch::randn({4, 8}), first = torch::randn({1, 8}), second = torch::randn({1, 8});
  torch::Tensor table = start.clone();
  RowSparseAdam adam(table, row_options());
  adam.update(table, ids_of({1}), first, 0.02);
  adam.update(table, ids_of({2}), first, 0.02);
  adam.update(table, ids_of({1}), second, 0.02);
  EXPECT_TRUE(torch::equal(table[0], start[0]));
  EXPECT_TRUE(torch::equal(table[3], start[3]));
  torch::Tensor alone = start.narrow(0, 1, 1).clone();
  RowSparseAdam reference(alone, row_options());
  reference.update(alone, ids_of({0}), first, 0.02);
  reference.update(alone, ids_of({0}), second, 0.02);
  EXPECT_TRUE(torch::equal(table.narrow(0, 1, 1), alone));
  EXPECT_TRUE(torch::equal(adam.state()[2].second, torch::tensor({0, 2, 1, 0}, torch::kInt32)));
}

// Every form of the rows and of their state.
void for_each_form(const std::function<void(torch::Dtype, const RowSparseAdamOptions&)>& test) {
  for (const torch::Dtype dtype : {torch::kFloat32, torch::kBFloat16})
    for (const TableMomentum momentum : {TableMomentum::kFp32, TableMomentum::kBf16, TableMomentum::kNone})
      for (const bool row_wise : {false, true}) {
        RowSparseAdamOptions options = row_options(row_wise);
        options.momentum = momentum;
        options.noise_key = 0xFEDCBA9876543210;
        SCOPED_TRACE(
            fmt::format("{}, momentum {}, row-wise {}", c10::toString(dtype), static_cast<int>(momentum), row_wise));
        test(dtype, options);
      }
}

TEST(RowSparseAdam, KernelEqualsTensorOperators) {
  for_each_form([](torch::Dtype dtype, RowSparseAdamOptions options) {
    options.rank = 2;
    options.ranks = 3;
    torch::manual_seed(4);
    torch::Tensor table = torch::randn({50, 24}).to(dtype), plain = table.clone();
    RowSparseAdam adam(table, options), reference(plain, options);
    for (int step = 0; step < 5; ++step) {
      const torch::Tensor ids = torch::randperm(50).narrow(0, 0, 20).contiguous();
      const torch::Tensor gradient = torch::randn({20, 24});
      adam.update(table, ids, gradient, 0.02);
      reference.update_plain(plain, ids, gradient, 0.02);
    }
    // bf16: the last bit of an fp32 number decides one rounding in 65,536.
    const auto compare = [](const torch::Tensor& a, const torch::Tensor& b, const std::string& name) {
      const bool half = a.scalar_type() == torch::kBFloat16;
      expect_close(a.to(torch::kFloat32), b.to(torch::kFloat32), half ? 1e-2 : 1e-5, name);
      EXPECT_LE(a.ne(b).sum().item<int64_t>(), half ? 1 + a.numel() / 100 : a.numel()) << name;
    };
    compare(table, plain, "rows");
    ASSERT_EQ(adam.state().size(), options.momentum == TableMomentum::kNone ? 2u : 3u);
    for (size_t i = 0; i < adam.state().size(); ++i)
      compare(adam.state()[i].second, reference.state()[i].second, adam.state()[i].first);
  });
}

TEST(RowSparseAdam, ThreadsAndTheOrderOfRowsChangeNothing) {
  for_each_form([](torch::Dtype dtype, const RowSparseAdamOptions& options) {
    torch::manual_seed(4);
    constexpr int64_t kRows = 3000;
    torch::Tensor table = torch::randn({kRows, 8}).to(dtype), other = table.clone();
    RowSparseAdam adam(table, options), many(other, options);
    const int threads = at::get_num_threads();
    for (int step = 0; step < 3; ++step) {
      const torch::Tensor order = torch::randperm(kRows), gradient = torch::randn({kRows, 8});
      at::set_num_threads(1);
      adam.update(table, torch::arange(kRows), gradient, 0.02);
      at::set_num_threads(4);
      many.update(other, order, gradient.index_select(0, order), 0.02);
    }
    at::set_num_threads(threads);
    EXPECT_TRUE(torch::equal(table, other));
    for (size_t i = 0; i < adam.state().size(); ++i)
      EXPECT_TRUE(torch::equal(adam.state()[i].second, many.state()[i].second)) << adam.state()[i].first;
  });
}

// A row that a batch reads twice gets the sum of both gradients: what a dense embedding's gradient says.
TEST(TrainableTable, GradientEqualsTheDenseReference) {
  torch::manual_seed(5);
  const torch::Tensor rows = torch::randn({30, 4});
  TrainableTable table(rows.clone(), torch::kCPU, row_options());
  std::vector<int64_t> ids = {3, 7, 3, 29, 0, 7, 7, 12};
  const torch::Tensor weight = torch::randn({2, 2, 2, 4});
  const MemoryRows memory = table.gather(ids, 2, 2);
  EXPECT_EQ(memory.unique_rows.size(0), 5);
  const torch::Tensor gathered = memory.unique_rows.index_select(0, memory.index.view({-1})).view({2, 2, 2, 4});
  (gathered * weight).sum().backward();

  const torch::Tensor dense = rows.clone().requires_grad_();
  (torch::embedding(dense, ids_of(ids)).view({2, 2, 2, 4}) * weight).sum().backward();
  const torch::Tensor mine = torch::zeros({30, 4}).index_copy(0, ids_of({3, 7, 29, 0, 12}), memory.unique_rows.grad());
  expect_close(mine, dense.grad(), 1e-6, "gradient");

  torch::Tensor expected = rows.clone();
  RowSparseAdam adam(expected, row_options());
  adam.update(expected, ids_of({3, 7, 29, 0, 12}), memory.unique_rows.grad(), 0.02);
  const double squares = memory.unique_rows.grad().to(torch::kDouble).square().sum().item<double>();
  EXPECT_NEAR(squares, table.collect_gradient(memory.unique_rows.grad()).value(), 1e-12 * squares);
  EXPECT_EQ(5, table.touched_rows());
  table.apply_gradient(0.02, 1);
  EXPECT_TRUE(torch::equal(table.rows(), expected));
  table.apply_gradient(0.02, 1);  // the gradient is gone
  EXPECT_TRUE(torch::equal(table.rows(), expected));
}

// Each row depends on its number alone, so that any part of a table can be drawn by itself.
TEST(TrainableTable, InitialRowsAreNormalAndDrawnOneByOne) {
  constexpr int64_t kRows = 20'000, kDim = 5;
  torch::Tensor rows = torch::empty({kRows, kDim}), part = torch::empty({7, kDim}), other = torch::empty({7, kDim});
  draw_table_rows(3, 1, 0, 0.02, rows.data_ptr<float>(), kRows, kDim);
  draw_table_rows(3, 1, 1234, 0.02, part.data_ptr<float>(), 7, kDim);
  draw_table_rows(3, 0, 1234, 0.02, other.data_ptr<float>(), 7, kDim);
  EXPECT_TRUE(torch::equal(part, rows.narrow(0, 1234, 7)));
  EXPECT_FALSE(torch::equal(part, other));
  const torch::Tensor z = rows.to(torch::kDouble) / 0.02;
  EXPECT_NEAR(0, z.mean().item<double>(), 0.02);  // 100,000 numbers: 6 standard errors
  EXPECT_NEAR(1, z.square().mean().item<double>(), 0.03);
  EXPECT_NEAR(3, z.pow(4).mean().item<double>(), 0.25);
  EXPECT_NEAR(0, (z.slice(1, 0, 4) * z.slice(1, 1, 5)).mean().item<double>(), 0.02);
}

TEST(TrainableTable, KeepsTheTableOutOfTheGraphAndChecksIds) {
  TrainableTable table(torch::zeros({8, 4}), torch::kCPU, row_options());
  const std::vector<int64_t> good = {1, 2}, bad = {1, 8}, odd = {1, 2, 3};
  EXPECT_TRUE(table.gather(good, 1, 2).unique_rows.requires_grad());
  EXPECT_FALSE(table.rows().requires_grad());
  EXPECT_THROW(table.gather(bad, 1, 2), c10::Error);
  EXPECT_THROW(table.gather(odd, 1, 2), c10::Error);
  const torch::NoGradGuard no_grad;
  EXPECT_FALSE(table.gather(good, 1, 2).unique_rows.requires_grad());
  int64_t elements = 0;
  for (const StreamedTensor& tensor : table.stored_state()) elements += tensor.read(0, 8).numel();
  EXPECT_EQ(elements, 8 * 4 * 2 + 8);  // m, v and a counter per row
}

TEST(TrainableTable, Bf16RowsAreReadAndStoredAsFp32) {
  const torch::Tensor rows = torch::randn({8, 4}).to(torch::kBFloat16);
  RowSparseAdamOptions options = row_options(/*row_wise=*/true);
  options.momentum = TableMomentum::kNone;
  TrainableTable table(rows.clone(), torch::kCPU, options);
  const std::vector<int64_t> ids = {5, 2};
  const torch::Tensor unique = table.gather(ids, 1, 2).unique_rows, wide = rows.to(torch::kFloat32);
  EXPECT_EQ(unique.scalar_type(), torch::kFloat32);
  EXPECT_TRUE(unique.requires_grad());
  EXPECT_TRUE(torch::equal(unique, wide.index_select(0, ids_of(ids))));
  const StreamedTensor stored = table.stored_rows();
  EXPECT_EQ(stored.dtype, torch::kFloat32);
  EXPECT_TRUE(torch::equal(stored.read(0, 8), wide));
  stored.write(0, 3, wide.narrow(0, 5, 3));
  EXPECT_TRUE(torch::equal(table.rows().narrow(0, 0, 3), rows.narrow(0, 5, 3)));
  // 2 bytes a number, one second moment and one counter a row.
  int64_t bytes = static_cast<int64_t>(table.rows().nbytes());
  for (const StreamedTensor& tensor : table.stored_state()) bytes += static_cast<int64_t>(tensor.read(0, 8).nbytes());
  EXPECT_EQ(bytes, 8 * (4 * 2 + 4 + 4));
  EXPECT_THROW(TrainableTable(torch::zeros({8, 4}, torch::kHalf), torch::kCPU, options), c10::Error);
}

}  // namespace
}  // namespace engram
