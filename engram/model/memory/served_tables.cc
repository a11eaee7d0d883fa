#include "engram/model/memory/served_tables.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <thread>

#include <c10/core/impl/VirtualGuardImpl.h>

#include "engram/model/memory/stored_table.h"
#include "engram/model/paged/paged_cache.h"
#include "engram/store/open.h"

namespace engram {
namespace {

constexpr const char* kResident = "resident";
constexpr const char* kConstant = "constant";

// "12=nvme:FILE" -> 12 and the rest; -1: no layer is named.
std::pair<int, std::string> split_placement(const std::string& text) {
  int layer_id = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), layer_id);
  if (error != std::errc() || end == text.data() + text.size() || *end != '=') return {-1, text};
  return {layer_id, text.substr(static_cast<size_t>(end - text.data()) + 1)};
}

Result<std::vector<std::string>> place_layers(const ModelConfig& config, std::span<const std::string> placements) {
  const size_t layers = static_cast<size_t>(config.num_memory_layers());
  std::vector<std::string> out(layers, kResident);
  for (const std::string& text : placements) {
    const auto [layer_id, placement] = split_placement(text);
    if (layers == 0) return invalid_argument("table {}: the model has no memory", text);
    if (layer_id < 0) {
      out.assign(layers, placement);
      continue;
    }
    const Result<int> layer = config.engram.find_layer(layer_id);
    if (!layer.ok()) return invalid_argument("table {}: {}", text, layer.status().message());
    out[static_cast<size_t>(*layer)] = placement;
  }
  return out;
}

}  // namespace

// The same primes, multipliers and pad in file and model: a row id means the same row.
Status check_row_file(const RowFileInfo& info, const LoadedModel& model, std::span<const int> layer_ids) {
  const HashRule rule = model.config.engram.rule;
  if (info.hash && info.hash->config.rule != rule)
    return invalid_argument("rule: the row file has \"{}\", the model \"{}\"", hash_rule_name(info.hash->config.rule),
                            hash_rule_name(rule));
  ENGRAM_RETURN_IF_ERROR(info.check_token_map(model.hasher.map()));
  ENGRAM_ASSIGN_OR_RETURN(const EngramLayout wanted, EngramLayout::create(model.config.engram, model.hasher.map()));
  ENGRAM_ASSIGN_OR_RETURN(const EngramLayout got, info.layout());
  const auto same = [](std::span<const int64_t> a, std::span<const int64_t> b) { return std::ranges::equal(a, b); };
  for (const int layer_id : layer_ids) {
    ENGRAM_ASSIGN_OR_RETURN(const int layer, wanted.config().find_layer(layer_id));
    const Result<int> at = got.config().find_layer(layer_id);
    if (!at.ok() || !same(got.primes(*at), wanted.primes(layer)) ||
        !same(got.multipliers(*at), wanted.multipliers(layer)) || got.compressed_pad_id() != wanted.compressed_pad_id())
      return invalid_argument(
          "layer {}: the row file hashes tokens to other rows than the model does; convert this"
          " model's checkpoint with `engram table convert`",
          layer_id);
  }
  return {};
}

bool may_be_resident(std::span<const std::string> placements) {
  bool resident = true;
  for (const std::string& text : placements) {
    const auto [layer_id, placement] = split_placement(text);
    resident = placement == kResident || (layer_id >= 0 && resident);
  }
  return resident;
}

ServedTables::ServedTables(const LoadedModel& model)
    : model_(&model),
      device_(model.model->parameters().front().device()),
      dtype_(page_dtype(model.model->parameters().front())) {
  if (device_.is_cpu()) return;
  const c10::impl::VirtualGuardImpl guard(device_.type());
  staging_ = guard.getStreamFromGlobalPool(device_, /*isHighPriority=*/true);
}

MemorySource* ServedTables::own(std::unique_ptr<MemorySource> source) {
  owned_.push_back(std::move(source));
  return owned_.back().get();
}

Result<std::unique_ptr<ServedTables>> ServedTables::create(const LoadedModel& model, const std::string& placement,
                                                           std::vector<std::unique_ptr<RowStore>> stores,
                                                           std::vector<RowFormat> formats) {
  std::unique_ptr<ServedTables> out(new ServedTables(model));
  const auto layers = static_cast<size_t>(model.config.num_memory_layers());
  if (stores.size() != layers || formats.size() != layers)
    return invalid_argument("{} stores and {} formats, wanted one of each for {} layers", stores.size(), formats.size(),
                            layers);
  out->placements_.assign(layers, placement);
  for (size_t layer = 0; layer < layers; ++layer) {
    const int64_t wanted = model.hasher.layer(static_cast<int>(layer)).num_rows();
    if (stores[layer]->num_rows() != wanted)
      return invalid_argument("layer {}: the store has {} rows, wanted {}", model.config.engram.layer_ids[layer],
                              stores[layer]->num_rows(), wanted);
    out->sources_.push_back(out->own(std::make_unique<StoredTable>(std::move(stores[layer]), formats[layer],
                                                                   out->device_, out->dtype_, out->staging_)));
  }
  return out;
}

Result<std::unique_ptr<ServedTables>> ServedTables::open(Env& env, const LoadedModel& model,
                                                         std::span<const std::string> placements,
                                                         std::span<const NamedOverlay> overlays) {
  std::unique_ptr<ServedTables> out(new ServedTables(model));
  RowFiles files;
  ENGRAM_ASSIGN_OR_RETURN(out->placements_, place_layers(model.config, placements));
  out->sources_.resize(out->placements_.size());
  for (size_t layer = 0; layer < out->placements_.size(); ++layer) {
    const std::string& placement = out->placements_[layer];
    if (out->sources_[layer] != nullptr) continue;
    if (placement == kConstant) {
      out->sources_[layer] = out->own(std::make_unique<ConstantTable>(
          model.hasher.layer(static_cast<int>(layer)).num_rows(), model.config.engram.head_dim));
    } else if (placement != kResident) {
      ENGRAM_RETURN_IF_ERROR(out->open_stores(env, placement, files));
    } else if (model.tables.size() > layer) {
      out->sources_[layer] = model.tables[layer].get();
    } else {
      return Status(StatusCode::kFailedPrecondition, "resident tables: the model was loaded without them");
    }
  }
  ENGRAM_RETURN_IF_ERROR(out->open_overlays(env, overlays, files));
  return out;
}

// Layers of one URI are opened together: they share the file, its thread and the cache's budget.
Status ServedTables::open_stores(Env& env, const std::string& uri, RowFiles& files) {
  const EngramConfig& config = model_->config.engram;
  std::vector<int> layer_ids;
  for (size_t layer = 0; layer < placements_.size(); ++layer) {
    if (placements_[layer] == uri) layer_ids.push_back(config.layer_ids[layer]);
  }
  ENGRAM_ASSIGN_OR_RETURN(OpenTable table, open_row_stores(env, uri, layer_ids));
  ENGRAM_RETURN_IF_ERROR(check_row_file(table.info, *model_, layer_ids).with_context(uri));
  for (size_t i = 0; i < layer_ids.size(); ++i) {
    ENGRAM_ASSIGN_OR_RETURN(const int layer, config.find_layer(layer_ids[i]));
    ENGRAM_ASSIGN_OR_RETURN(const int at, table.info.find_layer(layer_ids[i]));
    const RowFormat& format = table.info.tables[static_cast<size_t>(at)].format;
    if (format.width != config.head_dim) {
      return invalid_argument("{}: rows of {} columns, wanted head_dim {}", uri, format.width, config.head_dim);
    }
    sources_[static_cast<size_t>(layer)] =
        own(std::make_unique<StoredTable>(std::move(table.stores[i]), format, device_, dtype_, staging_));
  }
  files.emplace(uri, std::move(table.info));
  return {};
}

// An overlay is of the row file that takes it.
Status ServedTables::open_overlays(Env& env, std::span<const NamedOverlay> overlays, const RowFiles& files) {
  std::vector<EditedRows> edited(sources_.size());
  for (const NamedOverlay& named : overlays) {
    Status problem = invalid_argument("no table is in a row file: an overlay edits the rows of one");
    for (const auto& [uri, info] : files) {
      const Result<Overlay> overlay = Overlay::load(env, named.path, info);
      problem = overlay.ok() ? add_overlay(named, *overlay, uri, info, edited) : overlay.status();
      if (overlay.ok()) break;
    }
    ENGRAM_RETURN_IF_ERROR(problem.with_context("overlay " + named.name));
  }
  return {};
}

Status ServedTables::add_overlay(const NamedOverlay& named, const Overlay& overlay, const std::string& uri,
                                 const RowFileInfo& info, std::vector<EditedRows>& edited) {
  ServedOverlay& out = overlays_.emplace_back(named.name, std::ssize(sources_));
  for (const Overlay::Layer& edits : overlay.layers) {
    const Result<int> layer = model_->config.engram.find_layer(edits.layer_id);
    if (!layer.ok() || placement(*layer) != uri)
      return invalid_argument("{}: edits layer {}, which is not read from {}", named.path, edits.layer_id, uri);
    ENGRAM_ASSIGN_OR_RETURN(const int at, info.find_layer(edits.layer_id));
    RowStore& store = static_cast<StoredTable&>(source(*layer)).store();
    ENGRAM_RETURN_IF_ERROR(add_edits(store, edits, named.path, edited[static_cast<size_t>(*layer)]));
    out.add(*layer, edits, info.tables[static_cast<size_t>(at)].format);
  }
  return {};
}

const ServedOverlay* ServedTables::find_overlay(const std::string& name) const {
  const auto found = std::ranges::find(overlays_, name, &ServedOverlay::name);
  return found == overlays_.end() ? nullptr : &*found;
}

std::vector<std::pair<int, StoreStats>> ServedTables::stats() const {
  std::vector<std::pair<int, StoreStats>> out;
  for (size_t layer = 0; layer < sources_.size(); ++layer) {
    if (auto stats = sources_[layer]->stats()) out.emplace_back(model_->config.engram.layer_ids[layer], *stats);
  }
  return out;
}

StepMemory ServedTables::begin(std::span<const StepRows> sequences, std::span<const StepRows> upcoming,
                               bool overlap) const {
  StepMemory out;
  out.tables_ = this;
  out.sequences_.assign(sequences.begin(), sequences.end());
  out.failures_.resize(sequences.size());
  RowIds joined(static_cast<int>(sources_.size()), model_->hasher.rows_per_token());
  for (const StepRows& s : sequences) {
    out.num_tokens_ += s.count;
    if (s.row_ids != nullptr) joined.append(*s.row_ids, s.first, s.count);
  }
  out.num_read_ = joined.num_tokens();
  for (size_t layer = 0; layer < sources_.size() && out.num_read_ > 0; ++layer) {
    const std::span<const int64_t> ids = joined.layer(static_cast<int>(layer));
    out.bytes_ += std::ssize(ids) * sources_[layer]->bytes_per_row();
    out.reads_.push_back(sources_[layer]->submit(ids, overlap));
  }
  for (const StepRows& s : upcoming) {
    for (size_t layer = 0; layer < sources_.size() && s.row_ids != nullptr; ++layer)
      sources_[layer]->prefetch(s.row_ids->layer(static_cast<int>(layer), s.first, s.count));
  }
  if (overlap) return out;
  const auto start = std::chrono::steady_clock::now();
  for (const auto& read : out.reads_) {
    while (!read->done()) std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
  out.stall_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return out;
}

torch::Tensor StepMemory::rows(int layer) {
  const bool on_host = tables_->device_.is_cpu();
  const auto options = torch::TensorOptions().device(tables_->device_).dtype(on_host ? torch::kFloat : tables_->dtype_);
  const int64_t width = tables_->model_->config.engram.memory_dim();
  torch::Tensor dense =
      num_read_ == 0 ? torch::empty({0, width}, options) : finish(layer).to(options).view({num_read_, width});
  apply_overlays(layer, dense);
  if (num_read_ == num_tokens_) return dense;
  torch::Tensor all = torch::zeros({num_tokens_, width}, options);
  int64_t from = 0, to = 0;
  for (const StepRows& s : sequences_) {
    if (s.row_ids != nullptr) {
      all.narrow(0, to, s.count).copy_(dense.narrow(0, from, s.count));
      from += s.count;
    }
    to += s.count;
  }
  return all;
}

void StepMemory::apply_overlays(int layer, const torch::Tensor& rows) const {
  int64_t first = 0;
  for (const StepRows& s : sequences_) {
    if (s.row_ids == nullptr) continue;
    for (const ServedOverlay* overlay : s.overlays) {
      const std::span<const int64_t> ids = s.row_ids->layer(layer, s.first, s.count);
      overlay->apply(layer, ids, rows.narrow(0, first, s.count).view({std::ssize(ids), -1}));
    }
    first += s.count;
  }
}

torch::Tensor StepMemory::finish(int layer) {
  const std::unique_ptr<MemoryRead> read = std::move(reads_[static_cast<size_t>(layer)]);
  const auto start = std::chrono::steady_clock::now();
  const Status status = read->wait();
  stall_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return status.ok() ? read->rows().in_order() : reread(layer);
}

// One read serves all sequences of a step; after an error each is read alone, so that only those fail that must. They
// go on with zeros, so that the others' step is whole.
torch::Tensor StepMemory::reread(int layer) {
  MemorySource& source = tables_->source(layer);
  std::vector<torch::Tensor> parts;
  for (size_t i = 0; i < sequences_.size(); ++i) {
    const StepRows& s = sequences_[i];
    if (s.row_ids == nullptr || s.count == 0) continue;
    const std::span<const int64_t> ids = s.row_ids->layer(layer, s.first, s.count);
    const std::unique_ptr<MemoryRead> read = source.submit(ids);
    if (const Status status = read->wait(); status.ok()) {
      parts.push_back(read->rows().in_order());
    } else {
      if (failures_[i].ok()) failures_[i] = status;
      parts.push_back(torch::zeros({std::ssize(ids), source.row_dim()},
                                   parts.empty() ? torch::TensorOptions() : parts.front().options()));
    }
  }
  const auto options = torch::TensorOptions().device(tables_->device_);
  for (torch::Tensor& part : parts) part = part.to(options);
  return torch::cat(parts);
}

}  // namespace engram
