#include "engram/store/plan/profile.h"

#include <map>

#include "engram/formats/safetensors.h"

namespace engram {

Status RowProfile::save(Env& env, const std::string& path) const {
  std::vector<TensorSpec> tensors;
  for (const Layer& layer : layers) {
    const auto rows = static_cast<int64_t>(layer.row_ids.size());
    tensors.push_back({fmt::format("layers.{}.row_ids", layer.layer_id), DType::kI64, {rows}});
    tensors.push_back({fmt::format("layers.{}.counts", layer.layer_id), DType::kU32, {rows}});
  }
  const std::map<std::string, std::string> metadata = {{"num_tokens", std::to_string(num_tokens)},
                                                       {"token_map_sha256", token_map_sha256}};
  ENGRAM_ASSIGN_OR_RETURN(const auto writer, SafetensorsWriter::create(env, path, tensors, metadata));
  for (const Layer& layer : layers) {
    ENGRAM_RETURN_IF_ERROR(writer->append(std::as_bytes(std::span(layer.row_ids))));
    ENGRAM_RETURN_IF_ERROR(writer->append(std::as_bytes(std::span(layer.counts))));
  }
  return writer->finish();
}

}  // namespace engram
