#include "engram/model/memory/step_memory.h"

#include <algorithm>
#include <charconv>
#include <functional>
#include <thread>

#include <ATen/Parallel.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "engram/kernels/row_codec.h"
#include "engram/model/memory/row_decoding.h"
#include "engram/model/ops/ops.h"
#include "engram/model/ops/parallel.h"
#include "engram/store/open.h"

namespace engram {
namespace {

constexpr const char* kResident = "resident";
constexpr const char* kConstant = "constant";

// "12=nvme:FILE" -> 12 and the rest; -1: no layer is named.
std::pair<int, std::string> split_placement(const std::string& text) {
  int layer = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), layer);
  if (error != std::errc() || end == text.data() + text.size() || *end != '=') return {-1, text};
  return {layer, text.substr(static_cast<size_t>(end - text.data()) + 1)};
}

Result<std::vector<std::string>> place_layers(const ModelConfig& config, std::span<const std::string> placements) {
  const size_t layers = static_cast<size_t>(config.num_memory_layers());
  std::vector<std::string> out(layers, kResident);
  for (const std::string& text : placements) {
    const auto [id, placement] = split_placement(text);
    if (layers == 0) return invalid_argument("table {}: the model has no memory", text);
    if (id < 0) {
      out.assign(layers, placement);
      continue;
    }
    const auto& ids = config.engram.layer_ids;
    const auto found = std::find(ids.begin(), ids.end(), id);
    if (found == ids.end()) {
      return invalid_argument("table {}: block {} has no memory, wanted one of {}", text, id, fmt::join(ids, ", "));
    }
    out[static_cast<size_t>(found - ids.begin())] = placement;
  }
  return out;
}

// The same primes, multipliers and pad in file and model, for one layer: a row id means the same row.
Status check_layer(const OpenTable& table, const ModelConfig& config, const EngramLayout& wanted, int layer) {
  const int id = config.engram.layer_ids[static_cast<size_t>(layer)];
  ENGRAM_ASSIGN_OR_RETURN(const EngramLayout got, table.info.layout());
  const auto& ids = got.config().layer_ids;
  const int at = static_cast<int>(std::find(ids.begin(), ids.end(), id) - ids.begin());
  const auto same = [](std::span<const int64_t> a, std::span<const int64_t> b) { return std::ranges::equal(a, b); };
  if (at == static_cast<int>(ids.size()) || !same(got.primes(at), wanted.primes(layer)) ||
      !same(got.multipliers(at), wanted.multipliers(layer)) || got.compressed_pad_id() != wanted.compressed_pad_id()) {
    return invalid_argument(
        "layer {}: the row file hashes tokens to other rows than the model does; convert this"
        " model's checkpoint with `engram table convert`",
        id);
  }
  return {};
}

}  // namespace

bool may_be_resident(std::span<const std::string> placements) {
  bool resident = true;
  for (const std::string& text : placements) {
    const auto [id, placement] = split_placement(text);
    resident = placement == kResident || (id >= 0 && resident);
  }
  return resident;
}

ServedTables::ServedTables(const LoadedModel& model)
    : model_(&model),
      device_(model.model->parameters().front().device()),
      dtype_(model.model->parameters().front().scalar_type()) {
  if (device_.is_cpu()) return;
  const c10::impl::VirtualGuardImpl guard(device_.type());
  staging_ = guard.getStreamFromGlobalPool(device_, /*isHighPriority=*/true);
}

Result<std::unique_ptr<ServedTables>> ServedTables::create(const LoadedModel& model, const std::string& placement,
                                                           std::vector<std::unique_ptr<RowStore>> stores,
                                                           std::vector<RowFormat> formats) {
  std::unique_ptr<ServedTables> out(new ServedTables(model));
  const auto layers = static_cast<size_t>(model.config.num_memory_layers());
  out->placements_.assign(layers, placement);
  for (size_t layer = 0; layer < layers; ++layer) out->store_of_layer_.push_back(static_cast<int>(layer));
  out->formats_ = std::move(formats);
  ENGRAM_ASSIGN_OR_RETURN(MemoryPipeline pipeline,
                          MemoryPipeline::create(model.hashing.map, model.hashing.hashers, std::move(stores),
                                                 model.config.engram.layer_ids));
  out->stores_ = std::make_unique<MemoryPipeline>(std::move(pipeline));
  return out;
}

Result<std::unique_ptr<ServedTables>> ServedTables::open(Env& env, const LoadedModel& model,
                                                         std::span<const std::string> placements) {
  std::unique_ptr<ServedTables> out(new ServedTables(model));
  ENGRAM_ASSIGN_OR_RETURN(out->placements_, place_layers(model.config, placements));
  ENGRAM_RETURN_IF_ERROR(out->open_stores(env));
  for (size_t layer = 0; layer < out->placements_.size(); ++layer) {
    if (out->placements_[layer] == kResident && model.tables.size() <= layer) {
      return Status(StatusCode::kFailedPrecondition, "resident tables: the model was loaded without them");
    }
  }
  return out;
}

Status ServedTables::open_stores(Env& env) {
  const ModelConfig& config = model_->config;
  store_of_layer_.assign(placements_.size(), -1);
  std::vector<NgramHasher> hashers;
  std::vector<std::unique_ptr<RowStore>> stores;
  std::vector<int> layer_ids;
  // Layers of one URI are opened together: they share the file, its thread and the cache's budget.
  for (size_t first = 0; first < placements_.size(); ++first) {
    const std::string& uri = placements_[first];
    if (uri == kResident || uri == kConstant || store_of_layer_[first] >= 0) continue;
    std::vector<size_t> layers;
    std::vector<int> ids;
    for (size_t layer = first; layer < placements_.size(); ++layer) {
      if (placements_[layer] != uri) continue;
      layers.push_back(layer);
      ids.push_back(config.engram.layer_ids[layer]);
    }
    ENGRAM_ASSIGN_OR_RETURN(OpenTable table, open_row_stores(env, uri, ids));
    ENGRAM_RETURN_IF_ERROR(table.info.check_token_map(model_->hashing.map).with_context(uri));
    const int pad = model_->hashing.map.ids()[static_cast<size_t>(config.engram.pad_token_id)];
    ENGRAM_ASSIGN_OR_RETURN(const EngramLayout layout, EngramLayout::create(config.engram, pad));
    for (size_t i = 0; i < layers.size(); ++i) {
      ENGRAM_RETURN_IF_ERROR(check_layer(table, config, layout, static_cast<int>(layers[i])).with_context(uri));
      ENGRAM_ASSIGN_OR_RETURN(const int at, table.info.find_layer(ids[i]));
      const RowFormat& format = table.info.tables[static_cast<size_t>(at)].format;
      if (format.width != config.engram.head_dim) {
        return invalid_argument("{}: rows of {} columns, wanted head_dim {}", uri, format.width,
                                config.engram.head_dim);
      }
      store_of_layer_[layers[i]] = static_cast<int>(stores.size());
      formats_.push_back(format);
      hashers.push_back(model_->hashing.hashers[layers[i]]);
      stores.push_back(std::move(table.stores[i]));
      layer_ids.push_back(ids[i]);
    }
  }
  if (stores.empty()) return {};
  ENGRAM_ASSIGN_OR_RETURN(MemoryPipeline pipeline, MemoryPipeline::create(model_->hashing.map, std::move(hashers),
                                                                          std::move(stores), std::move(layer_ids)));
  stores_ = std::make_unique<MemoryPipeline>(std::move(pipeline));
  return {};
}

std::vector<int32_t> ServedTables::canonical_before(const StepTokens& sequence) const {
  const size_t wanted = static_cast<size_t>(std::max(1, model_->config.engram.max_ngram_size) - 1);
  const auto last = sequence.before.last(std::min(wanted, sequence.before.size()));
  std::vector<int32_t> out(last.begin(), last.end());
  for (int32_t& id : out) id = model_->hashing.map.ids()[static_cast<size_t>(id)];
  return out;
}

std::vector<int64_t> ServedTables::row_ids(int memory_layer, const StepTokens& sequence) const {
  const NgramHasher& hasher = model_->hashing.hashers[static_cast<size_t>(memory_layer)];
  std::vector<int64_t> out(sequence.tokens.size() * static_cast<size_t>(hasher.rows_per_token()));
  throw_if_error(hasher.hash(sequence.tokens, {}, canonical_before(sequence), out));
  return out;
}

std::vector<std::string> ServedTables::tiers(int memory_layer, std::span<const int64_t> row_ids) const {
  const int at = store_of_layer_[static_cast<size_t>(memory_layer)];
  if (at < 0) return std::vector<std::string>(row_ids.size(), placements_[static_cast<size_t>(memory_layer)]);
  const RowStore& store = stores_->store(at);
  const std::vector<TierStats> names = store.stats().tiers;
  std::vector<uint8_t> tier(row_ids.size());
  store.locate(row_ids, tier);
  std::vector<std::string> out;
  for (uint8_t t : tier) out.push_back(names[t].name);
  return out;
}

std::vector<std::pair<int, StoreStats>> ServedTables::stats() const {
  std::vector<std::pair<int, StoreStats>> out;
  for (int i = 0; stores_ && i < stores_->num_layers(); ++i) {
    out.emplace_back(stores_->layer_ids()[static_cast<size_t>(i)], stores_->store(i).stats());
  }
  return out;
}

namespace {

// What MemoryPipeline wants of the sequences with memory. Histories are made anew: a sequence's tokens are at hand.
struct Chunks {
  Chunks(std::span<const StepTokens> sequences, int max_ngram_size,
         const std::function<std::vector<int32_t>(const StepTokens&)>& canonical_before) {
    histories.reserve(sequences.size());
    for (const StepTokens& s : sequences) {
      if (s.memory_off) continue;
      histories.emplace_back(max_ngram_size).append(canonical_before(s), {});
      chunks.push_back({&histories.back(), s.tokens, {}});
    }
  }
  std::vector<TokenHistory> histories;
  std::vector<SequenceChunk> chunks;  // point into histories
};

}  // namespace

StepMemory ServedTables::begin(std::vector<StepTokens> sequences, std::vector<StepTokens> upcoming,
                               bool overlap) const {
  StepMemory out;
  out.tables_ = this;
  out.overlap_ = overlap;
  out.sequences_ = std::move(sequences);
  out.failures_.resize(out.sequences_.size());
  for (const StepTokens& s : out.sequences_) {
    const auto count = static_cast<int64_t>(s.tokens.size());
    out.num_tokens_ += count;
    if (!s.memory_off) out.num_read_ += count;
  }
  out.row_ids_.resize(placements_.size());
  for (size_t layer = 0; layer < placements_.size(); ++layer) {
    if (placements_[layer] != kResident) continue;
    for (const StepTokens& s : out.sequences_) {
      if (s.memory_off) continue;
      const std::vector<int64_t> ids = row_ids(static_cast<int>(layer), s);
      out.row_ids_[layer].insert(out.row_ids_[layer].end(), ids.begin(), ids.end());
    }
  }
  if (!stores_) return out;
  if (out.num_read_ == 0) {
    prefetch(upcoming);
    return out;
  }
  std::vector<std::span<std::byte>> spans;
  for (int i = 0; i < stores_->num_layers(); ++i) {
    const int64_t size =
        out.num_read_ * stores_->rows_per_token() * static_cast<int64_t>(stores_->store(i).row_bytes());
    const auto bytes = torch::TensorOptions().dtype(torch::kUInt8).pinned_memory(!device_.is_cpu());
    out.bytes_of_.push_back(torch::empty({size}, bytes));
    spans.emplace_back(reinterpret_cast<std::byte*>(out.bytes_of_.back().mutable_data_ptr<uint8_t>()),
                       static_cast<size_t>(size));
    out.bytes_ += size;
  }
  if (overlap && !device_.is_cpu()) {
    // The tokens that the spans name, and the buffers, stay where they are for as long as `out` lives, moved or not.
    const auto task = std::make_shared<std::packaged_task<MemoryRead()>>(
        [this, spans, tokens = out.sequences_, next = std::move(upcoming)] { return start_read(tokens, next, spans); });
    out.starting_.future = task->get_future();
    at::launch([task] { (*task)(); });
    return out;
  }
  out.read_ = std::make_unique<MemoryRead>(start_read(out.sequences_, upcoming, spans));
  if (overlap) return out;
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < stores_->num_layers(); ++i) {
    while (!out.read_->done(i)) std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
  out.stall_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return out;
}

MemoryRead ServedTables::start_read(std::span<const StepTokens> sequences, std::span<const StepTokens> upcoming,
                                    std::span<const std::span<std::byte>> out) const {
  const Chunks chunks(sequences, model_->config.engram.max_ngram_size,
                      [this](const StepTokens& s) { return canonical_before(s); });
  MemoryRead read = value_or_throw(stores_->read(chunks.chunks, out));
  prefetch(upcoming);
  return read;
}

void ServedTables::prefetch(std::span<const StepTokens> sequences) const {
  if (sequences.empty()) return;
  const Chunks chunks(sequences, model_->config.engram.max_ngram_size,
                      [this](const StepTokens& s) { return canonical_before(s); });
  stores_->prefetch(chunks.chunks);
}

torch::Tensor StepMemory::rows(int memory_layer) {
  const ModelConfig& config = tables_->model_->config;
  const size_t layer = static_cast<size_t>(memory_layer);
  const int64_t width = config.engram.memory_dim();
  const bool on_host = tables_->device_.is_cpu();
  const auto options = torch::TensorOptions().device(tables_->device_).dtype(on_host ? torch::kFloat : tables_->dtype_);
  torch::Tensor dense;
  if (const int store = tables_->store_of_layer_[layer]; store >= 0) {
    dense = stored_rows(memory_layer, static_cast<size_t>(store));
  } else if (tables_->placements_[layer] == kConstant) {
    dense = torch::full({num_read_, width}, 0.1f, options);
  } else {
    const MemoryRows gathered = tables_->model_->tables[layer]->gather(row_ids_[layer], 1, num_read_);
    dense = gather_rows(gathered.unique_rows, gathered.index).view({num_read_, width}).to(options);
  }
  if (num_read_ == num_tokens_) return dense;
  torch::Tensor all = torch::zeros({num_tokens_, width}, options);
  int64_t from = 0, to = 0;
  for (const StepTokens& s : sequences_) {
    const auto count = static_cast<int64_t>(s.tokens.size());
    if (!s.memory_off) {
      all.narrow(0, to, count).copy_(dense.narrow(0, from, count));
      from += count;
    }
    to += count;
  }
  return all;
}

torch::Tensor StepMemory::stored_rows(int memory_layer, size_t store) {
  wait(memory_layer, store);
  return tables_->device_.is_cpu() ? decode_on_host(store) : decode_on_device(store);
}

void StepMemory::wait(int memory_layer, size_t store) {
  const auto start = std::chrono::steady_clock::now();
  if (starting_.future.valid()) read_ = std::make_unique<MemoryRead>(starting_.future.get());
  const Status status = read_->wait(static_cast<int>(store));
  stall_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!status.ok()) reread(memory_layer, store);
}

torch::Tensor StepMemory::decode_on_device(size_t store) const {
  const torch::Device device = tables_->device_;
  const RowFormat& format = tables_->formats_[store];
  const c10::impl::VirtualGuardImpl guard(device.type());
  const c10::Stream model_stream = guard.getStream(device);
  // Without overlap the model's own stream copies, as an engine would that has no other.
  const c10::Stream stream = overlap_ ? *tables_->staging_ : model_stream;
  torch::Tensor out;
  {
    const c10::StreamGuard on_stream(stream);
    const torch::Tensor bytes = bytes_of_[store].to(device, /*non_blocking=*/true).view({-1, format.row_bytes()});
    out = decode_rows_composed(format, bytes, tables_->dtype_).view({num_read_, -1});
    zero_failed(out);
  }
  if (!overlap_) return out;
  c10::Event decoded(device.type());
  decoded.record(stream);
  decoded.block(model_stream);
  out.record_stream(model_stream);  // its memory is not reused before the model has read it
  return out;
}

torch::Tensor StepMemory::decode_on_host(size_t store) const {
  const RowFormat& format = tables_->formats_[store];
  const int64_t count = num_read_ * tables_->stores_->rows_per_token();
  torch::Tensor out = torch::empty({num_read_, tables_->model_->config.engram.memory_dim()});
  const auto* from = reinterpret_cast<const std::byte*>(bytes_of_[store].const_data_ptr<uint8_t>());
  const auto stride = static_cast<size_t>(format.row_bytes());
  parallel_ranges(count, 1024, [&](int64_t begin, int64_t end) {
    decode_rows(format, from + static_cast<size_t>(begin) * stride, stride, end - begin,
                out.mutable_data_ptr<float>() + begin * format.width);
  });
  zero_failed(out);
  return out;
}

// A sequence whose rows could not be read goes on with zeros, so that the others' step is whole.
void StepMemory::zero_failed(torch::Tensor& rows) const {
  int64_t at = 0;
  for (size_t i = 0; i < sequences_.size(); ++i) {
    if (sequences_[i].memory_off) continue;
    const auto tokens = static_cast<int64_t>(sequences_[i].tokens.size());
    if (!failures_[i].ok()) rows.narrow(0, at, tokens).zero_();
    at += tokens;
  }
}

// One read serves all sequences of a step; after an error each is read alone, so that only those fail that must.
void StepMemory::reread(int memory_layer, size_t store) {
  RowStore& rows = tables_->stores_->store(static_cast<int>(store));
  const size_t token_bytes = static_cast<size_t>(tables_->stores_->rows_per_token()) * rows.row_bytes();
  auto* to = reinterpret_cast<std::byte*>(bytes_of_[store].mutable_data_ptr<uint8_t>());
  for (size_t i = 0; i < sequences_.size(); ++i) {
    if (sequences_[i].memory_off) continue;
    const size_t size = sequences_[i].tokens.size() * token_bytes;
    const Status status = rows.read(tables_->row_ids(memory_layer, sequences_[i]), {to, size}).wait();
    if (failures_[i].ok()) failures_[i] = status;
    to += size;
  }
}

}  // namespace engram
