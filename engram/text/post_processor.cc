#include "engram/text/post_processor.h"

#include "engram/core/fields.h"
#include "engram/core/json.h"

namespace engram {
namespace {

Result<int32_t> id_of(const nlohmann::json& value, int64_t vocab_size, const std::string& where) {
  const bool valid = value.is_number_unsigned() && value.get<uint64_t>() < static_cast<uint64_t>(vocab_size);
  if (!valid) return invalid_argument("{}: an id that is not in 0 .. {}", where, vocab_size - 1);
  return value.get<int32_t>();
}

// The ids of a special token of a template: special_tokens.NAME.ids.
Status append_special(const nlohmann::json& value, const std::string& token, int64_t vocab_size,
                      const std::string& where, std::vector<int32_t>& ids) {
  std::vector<int32_t> list;
  Fields special = Fields(value, where).section("special_tokens").section(token);
  special.need("ids", list, 0, vocab_size - 1);
  ids.insert(ids.end(), list.begin(), list.end());
  return special.status();
}

}  // namespace

Result<PostProcessor> PostProcessor::parse(const nlohmann::json& value, int64_t vocab_size, const std::string& where) {
  PostProcessor processor;
  if (!value.is_null()) ENGRAM_RETURN_IF_ERROR(processor.add(value, vocab_size, where));
  return processor;
}

Status PostProcessor::add(const nlohmann::json& value, int64_t vocab_size, const std::string& where) {
  ENGRAM_ASSIGN_OR_RETURN(std::string type, read_field<std::string>(value, "type", where));
  if (type == "ByteLevel") return Status();
  if (type == "TemplateProcessing") return add_template(value, vocab_size, where);
  if (type == "BertProcessing" || type == "RobertaProcessing") return add_pair(value, vocab_size, where);
  if (type == "Sequence") {
    const nlohmann::json* parts = json_find(value, "processors");
    if (parts == nullptr || !parts->is_array()) return invalid_argument("{}: no \"processors\" array", where);
    for (const nlohmann::json& part : *parts) ENGRAM_RETURN_IF_ERROR(add(part, vocab_size, where));
    return Status();
  }
  return invalid_argument("{}: type {} is not supported", where, quote_text(type));
}

Status PostProcessor::add_template(const nlohmann::json& value, int64_t vocab_size, const std::string& where) {
  const nlohmann::json* single = json_find(value, "single");
  if (single == nullptr || !single->is_array()) return invalid_argument("{}: template without \"single\"", where);
  std::vector<int32_t> before, after;
  int sequences = 0;
  for (const nlohmann::json& piece : *single) {
    if (const nlohmann::json* special = json_find(piece, "SpecialToken")) {
      ENGRAM_ASSIGN_OR_RETURN(std::string token, read_field<std::string>(*special, "id", where));
      ENGRAM_RETURN_IF_ERROR(append_special(value, token, vocab_size, where, sequences == 0 ? before : after));
    } else if (const nlohmann::json* sequence = json_find(piece, "Sequence")) {
      ENGRAM_ASSIGN_OR_RETURN(std::string id, read_field<std::string>(*sequence, "id", where));
      if (id != "A") return invalid_argument("{}: sequence {} in a single template", where, quote_text(id));
      ++sequences;
    } else {
      return invalid_argument("{}: a template piece that is neither SpecialToken nor Sequence", where);
    }
  }
  if (sequences != 1) return invalid_argument("{}: template names A {} times, wanted once", where, sequences);
  prefix_.insert(prefix_.begin(), before.begin(), before.end());
  suffix_.insert(suffix_.end(), after.begin(), after.end());
  return Status();
}

// "cls": ["<s>", 0], "sep": ["</s>", 2]
Status PostProcessor::add_pair(const nlohmann::json& value, int64_t vocab_size, const std::string& where) {
  for (const char* key : {"cls", "sep"}) {
    const nlohmann::json* token = json_find(value, key);
    if (token == nullptr || !token->is_array() || token->size() != 2) {
      return invalid_argument("{}: no \"{}\" with a token and an id", where, key);
    }
    ENGRAM_ASSIGN_OR_RETURN(int32_t id, id_of((*token)[1], vocab_size, where));
    if (std::string_view(key) == "cls") {
      prefix_.insert(prefix_.begin(), id);
    } else {
      suffix_.push_back(id);
    }
  }
  return Status();
}

std::vector<int32_t> PostProcessor::apply(std::vector<int32_t> ids) const {
  ids.insert(ids.begin(), prefix_.begin(), prefix_.end());
  ids.insert(ids.end(), suffix_.begin(), suffix_.end());
  return ids;
}

}  // namespace engram
