#include <algorithm>
#include <bit>
#include <cstring>

#include "engram/core/json.h"
#include "engram/core/mix.h"
#include "engram/formats/safetensors.h"
#include "engram/store/tiers/cached_store.h"

namespace engram {
namespace {

constexpr int64_t kMostHotRows = INT32_MAX;

size_t bucket_of(int64_t id, size_t buckets) { return mix_bits(static_cast<uint64_t>(id)) & (buckets - 1); }

}  // namespace

Result<std::vector<int64_t>> read_row_profile(Env& env, const std::string& path, int layer_id, int64_t num_rows,
                                              const std::string& token_map_sha256) {
  ENGRAM_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::open(env, path));
  const auto digest = file.metadata().find("token_map_sha256");
  if (digest != file.metadata().end() && !digest->second.empty() && !token_map_sha256.empty() &&
      digest->second != token_map_sha256)
    return make_status(StatusCode::kFailedPrecondition,
                       "{}: a profile for the tokenizer map {}, the table's is {}: its rows mean nothing here", path,
                       quote_text(digest->second, 64), token_map_sha256);
  const std::string name = fmt::format("layers.{}.row_ids", layer_id);
  ENGRAM_ASSIGN_OR_RETURN(const TensorView tensor, file.find(name));
  if (tensor.dtype != DType::kI64 || tensor.shape.size() != 1)
    return data_loss("{}: tensor {} is {} of {} dimensions, wanted I64 of 1", path, name, dtype_name(tensor.dtype),
                     tensor.shape.size());
  std::vector<int64_t> ids(static_cast<size_t>(tensor.shape[0]));
  if (!ids.empty()) std::memcpy(ids.data(), tensor.bytes.data(), tensor.bytes.size());
  ENGRAM_RETURN_IF_ERROR(file.check_unchanged());
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= num_rows)
      return data_loss("{}: {}[{}] is {}, wanted 0 .. {} (a profile of another table?)", path, name, i, ids[i],
                       num_rows - 1);
  }
  std::vector<int64_t> sorted = ids;
  std::sort(sorted.begin(), sorted.end());
  if (const auto twice = std::adjacent_find(sorted.begin(), sorted.end()); twice != sorted.end())
    return data_loss("{}: {} holds row {} twice", path, name, *twice);
  return ids;
}

int64_t HotSet::rows_for(int64_t budget_bytes, size_t row_bytes) {
  return std::clamp<int64_t>(budget_bytes / (static_cast<int64_t>(row_bytes) + 8 + 16), 0, kMostHotRows);
}

Result<std::unique_ptr<HotSet>> HotSet::load(RowStore& store, std::vector<int64_t> row_ids) {
  if (row_ids.size() > static_cast<size_t>(kMostHotRows))
    return invalid_argument("a hot set of {} rows, wanted at most {}", row_ids.size(), kMostHotRows);
  std::unique_ptr<HotSet> set(new HotSet);
  const size_t row_bytes = store.row_bytes(), count = row_ids.size();
  set->row_bytes_ = row_bytes;
  ENGRAM_ASSIGN_OR_RETURN(set->rows_, HugeMemory::allocate(count * row_bytes, "hot set"));
  // In file order, so that the pages of the file are read once.
  std::sort(row_ids.begin(), row_ids.end());
  set->ids_ = std::move(row_ids);
  constexpr size_t kRowsPerRead = 65536;
  for (size_t begin = 0; begin < count; begin += kRowsPerRead) {
    const auto ids = std::span<const int64_t>(set->ids_).subspan(begin, std::min(kRowsPerRead, count - begin));
    const auto out = set->rows_.bytes().subspan(begin * row_bytes, ids.size() * row_bytes);
    ENGRAM_RETURN_IF_ERROR(store.read(ids, out).wait());
  }
  set->index_.assign(std::bit_ceil(count * 2 + 1), -1);
  const size_t buckets = set->index_.size();
  for (size_t i = 0; i < count; ++i) {
    size_t bucket = bucket_of(set->ids_[i], buckets);
    while (set->index_[bucket] >= 0) bucket = (bucket + 1) & (buckets - 1);
    set->index_[bucket] = static_cast<int32_t>(i);
  }
  return set;
}

const std::byte* HotSet::find(int64_t id) const {
  const size_t buckets = index_.size();
  for (size_t bucket = bucket_of(id, buckets); index_[bucket] >= 0; bucket = (bucket + 1) & (buckets - 1)) {
    const auto slot = static_cast<size_t>(index_[bucket]);
    if (ids_[slot] == id) return rows_.bytes().data() + slot * row_bytes_;
  }
  return nullptr;
}

}  // namespace engram
