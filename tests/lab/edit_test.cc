#include "engram/lab/probes/edit.h"

#include "engram/lab/text/score.h"
#include "engram/store/import/table_tools.h"
#include "engram/store/open.h"
#include "tests/lab/probe_test.h"

namespace engram {
namespace {

class Edit : public ProbeTest {
 protected:
  std::vector<int32_t> encode(const LoadedModel& model, const std::string& text) {
    return value_or_throw(model.tokenizer->encode(text));
  }
  double score(const LoadedModel& model, const std::string& prompt, const std::string& answer) {
    const auto one = value_or_throw(split_continuation(model, prompt, answer));
    return value_or_throw(score_continuations(model, std::vector{one}))[0].log_likelihood;
  }
};

TEST_F(Edit, RowsAreThoseOfTheLastToken) {
  const LoadedModel model = load("model", MemoryKind::kEngram);
  const auto tokens = encode(model, "xyabc");
  const NgramRowIds found = value_or_throw(rows_of_ngram(model, tokens));
  EXPECT_EQ(found.order, 3);
  const RowIds row_ids = value_or_throw(model.hasher.hash(tokens));
  const std::vector<int64_t> ids(row_ids.layer(0).begin(), row_ids.layer(0).end());
  EXPECT_EQ(found.row_ids[0], std::vector<int64_t>(ids.end() - 2, ids.end()));  // order 3: the last two slots
  const NgramRowIds two = value_or_throw(rows_of_ngram(model, encode(model, "bc")));
  EXPECT_EQ(two.row_ids[0], std::vector<int64_t>(ids.end() - 4, ids.end() - 2));
  EXPECT_FALSE(rows_of_ngram(model, encode(model, "c")).ok());
}

TEST_F(Edit, GradientStepsRaiseTheTargetAndLeaveTheModelAlone) {
  const LoadedModel model = load("model", MemoryKind::kEngram);
  const NgramRowIds rows = value_or_throw(rows_of_ngram(model, encode(model, "Milky Way")));
  const double before = score(model, "Milky Way", "z");
  const auto values = train_rows(model, rows, encode(model, "Milky Way"), encode(model, "z"), 30);
  EXPECT_EQ(score(model, "Milky Way", "z"), before);
  for (const auto& parameter : model.model->parameters()) EXPECT_FALSE(parameter.grad().defined());
  const LoadedModel after = value_or_throw(with_rows(Env::posix(), model, rows, values));
  EXPECT_GT(score(after, "Milky Way", "z"), before + 0.1);
  const auto none = train_rows(model, rows, encode(model, "Milky Way"), encode(model, "z"), 0);
  EXPECT_EQ(score(value_or_throw(with_rows(Env::posix(), model, rows, none)), "Milky Way", "z"), before);
}

TEST_F(Edit, ChangesOnlyTextsThatReadTheRows) {
  const LoadedModel model = load("model", MemoryKind::kEngram);
  const ProbeText text = value_or_throw(read_probe_text(Env::posix(), options_.text, *model.tokenizer));
  const NgramRowIds rows = value_or_throw(rows_of_ngram(model, encode(model, " Way")));
  std::vector<torch::Tensor> values(2, torch::full({2, 8}, 3.0));
  const LoadedModel after = value_or_throw(with_rows(Env::posix(), model, rows, values));
  const EditedPositions found = compare_edit(model, after, rows, text);
  std::array<int64_t, 4> counts = {};
  double touched = 0;
  for (size_t t = 0; t < found.tie.size(); ++t) {
    ++counts[static_cast<size_t>(found.tie[t])];
    if (found.tie[t] == Tie::kUntouched) {
      EXPECT_LT(std::abs(found.divergence[t]), 1e-6) << t;
    } else {
      touched = std::max<double>(touched, found.divergence[t]);
    }
  }
  for (int64_t count : counts) EXPECT_GT(count, 0);  // " Way" occurs 30 times, 60 rows are shared by far more n-grams
  EXPECT_GT(touched, 1e-3);
}

TEST_F(Edit, TowardItselfChangesNothing) {
  options_.ngram = options_.toward = "Way";
  options_.target = " in";
  const auto data = value_or_throw(run("edit", {save("model", MemoryKind::kEngram)}));
  for (const auto& row : data.at("effect")) EXPECT_EQ(row.at("change").at("mean"), 0.0);
  for (const auto& row : data.at("locality")) EXPECT_LT(row.at("largest").get<double>(), 1e-6);
  options_.output = folder_ / "out2";
  options_.toward = "ay";
  EXPECT_NE(run("edit", {save("model", MemoryKind::kEngram)}).status().message().find("wanted 3 like ngram's"),
            std::string::npos);
}

TEST_F(Edit, EditedRowsBecomeAnOverlay) {
  const std::string checkpoint = save("model", MemoryKind::kEngram), file = folder_ / "model.rows";
  const auto source = value_or_throw(open_table_source(Env::posix(), checkpoint));
  const RowFileInfo info = value_or_throw(plan_convert(*source, RowType::kFP32));
  throw_if_error(convert_table(Env::posix(), *source, file, info, /*resume=*/false, nullptr));
  options_.ngram = "Milky Way";
  options_.target = "z";
  options_.save_overlay = folder_ / "z.overlay";
  EXPECT_NE(run("edit", {checkpoint}).status().message().find("table: got none"), std::string::npos);
  options_.table = file;
  const auto data = value_or_throw(run("edit", {checkpoint}));
  EXPECT_EQ(data.at("overlay").at("rows"), 4);

  const LoadedModel model = value_or_throw(load_model(Env::posix(), checkpoint));
  const NgramRowIds rows = value_or_throw(rows_of_ngram(model, encode(model, "Milky Way")));
  const auto values = train_rows(model, rows, encode(model, "Milky Way"), encode(model, "z"), options_.steps);
  const auto stores =
      value_or_throw(open_row_stores(Env::posix(), "dram:" + file + "?overlay=" + options_.save_overlay));
  for (size_t layer = 0; layer < 2; ++layer) {
    std::vector<std::byte> got(2 * stores.stores[layer]->row_bytes());
    throw_if_error(stores.stores[layer]->read(rows.row_ids[layer], got).wait());
    const torch::Tensor wanted = values[layer].contiguous();
    EXPECT_EQ(std::memcmp(got.data(), wanted.data_ptr(), got.size()), 0) << layer;
  }
}

}  // namespace
}  // namespace engram
