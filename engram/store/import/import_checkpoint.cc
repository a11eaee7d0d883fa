// Our own checkpoints: docs/formats/checkpoint.md.
#include <cstring>

#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/store/import/import.h"
#include "engram/text/tokenizer.h"

namespace engram::import {
namespace {

class CheckpointSource final : public TableSource {
 public:
  CheckpointSource(std::string path, SafetensorsFile file)
      : TableSource("engram checkpoint", std::move(path)), file_(std::move(file)) {}

  Status add_layer(int layer_id, const std::string& name, int64_t width) {
    ENGRAM_ASSIGN_OR_RETURN(const TensorView view, file_.find(name));
    const int64_t num_rows = view.shape.empty() ? 0 : view.shape[0];  // make_hash() checks them
    ENGRAM_RETURN_IF_ERROR(check_tensor(view, file_.path(), name, {DType::kF32, DType::kBF16}, {num_rows, width}));
    const RowType type = view.dtype == DType::kF32 ? RowType::kFP32 : RowType::kBF16;
    tables_.push_back({layer_id, num_rows, RowFormat{type, width}, dtype_name(view.dtype)});
    views_.push_back(view);
    return {};
  }
  void set_hash(RowFileHash hash) { hash_ = std::move(hash); }

 protected:
  Status do_read_rows(int table, int64_t first, int64_t count, std::byte* out) const override {
    const auto row_bytes = static_cast<size_t>(tables_[static_cast<size_t>(table)].format.row_bytes());
    const std::byte* from = views_[static_cast<size_t>(table)].bytes.data() + static_cast<size_t>(first) * row_bytes;
    std::memcpy(out, from, static_cast<size_t>(count) * row_bytes);
    return {};
  }
  Status check_unchanged() const override { return file_.check_unchanged(); }

 private:
  SafetensorsFile file_;
  std::vector<TensorView> views_;
};

Result<TokenMap> token_map(Env& env, const std::string& directory, bool compression) {
  ENGRAM_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::load(env, join_path(directory, "tokenizer.json")));
  if (compression) return TokenMap::from_tokenizer(tokenizer);
  return TokenMap::identity(tokenizer.vocab_size());
}

}  // namespace

Result<std::unique_ptr<TableSource>> open_checkpoint(Env& env, const std::string& directory,
                                                     const nlohmann::json& config, const std::string& config_path) {
  Fields fields(config, config_path), section = fields.section("engram");
  EngramConfig parsed;
  std::string memory, rule = hash_rule_name(parsed.rule);  // checkpoints from before there were others have none
  bool compression = true;
  fields.need("memory", memory);
  section("rule", rule);
  ENGRAM_ASSIGN_OR_RETURN(parsed.rule, parse_hash_rule(rule));
  EngramConfig::visit_fields(parsed, [&](const char* key, auto& value) { section.need(key, value); });
  if (parsed.rule == HashRule::kEngram) section.need("compression", compression);
  ENGRAM_RETURN_IF_ERROR(fields.status());
  if (memory != "engram")
    return invalid_argument("{}: memory is {}, wanted \"engram\": only that has tables of rows by n-gram", config_path,
                            quote_text(memory));
  ENGRAM_RETURN_IF_ERROR(section.status());
  ENGRAM_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::open(env, join_path(directory, "engram.safetensors")));
  auto source = std::make_unique<CheckpointSource>(directory, std::move(file));
  std::vector<int64_t> num_rows;
  for (const int layer_id : parsed.layer_ids) {
    const std::string name = parsed.rule == HashRule::kLongcat ? std::string("over_encoding.embed.weight")
                                                               : fmt::format("layers.{}.engram.embed.weight", layer_id);
    ENGRAM_RETURN_IF_ERROR(source->add_layer(layer_id, name, parsed.head_dim));
    num_rows.push_back(source->tables().back().num_rows);
  }
  ENGRAM_ASSIGN_OR_RETURN(const TokenMap map,
                          token_map(env, directory, compression && parsed.rule == HashRule::kEngram));
  ENGRAM_ASSIGN_OR_RETURN(RowFileHash hash, make_hash(parsed, map, num_rows, config_path + ": engram"));
  source->set_hash(std::move(hash));
  return std::unique_ptr<TableSource>(std::move(source));
}

}  // namespace engram::import
