#include "engram/lab/text/eval_items.h"

#include <algorithm>
#include <set>

#include "engram/core/file_kind.h"
#include "engram/core/json.h"
#include "engram/core/lines.h"

namespace engram {
namespace {

constexpr const char* kKeys[] = {"task", "id", "split", "prompt", "choices", "answer", "targets"};

Result<std::vector<std::string>> string_list(const nlohmann::json& object, const char* key, const std::string& where,
                                             size_t least) {
  const nlohmann::json* list = json_find(object, key);
  if (list == nullptr || !list->is_array() || list->size() < least) {
    return invalid_argument("{}: {}: got {}, wanted a list of at least {} texts", where, key,
                            list == nullptr ? "nothing" : quote_text(list->dump()), least);
  }
  std::vector<std::string> out;
  for (const auto& value : *list) {
    if (!value.is_string() || value.get_ref<const std::string&>().empty()) {
      return invalid_argument("{}: {}: got {}, wanted texts that are not empty", where, key, quote_text(value.dump()));
    }
    out.push_back(value.get<std::string>());
  }
  return out;
}

Result<EvalItem> parse_item(const nlohmann::json& json, const std::string& where) {
  if (!json.is_object()) return invalid_argument("{}: got {}, wanted an object", where, quote_text(json.dump()));
  for (const auto& [key, value] : json.items()) {
    if (std::find(std::begin(kKeys), std::end(kKeys), key) == std::end(kKeys)) {
      return invalid_argument("{}: unknown key {}", where, quote_text(key));
    }
  }
  EvalItem item;
  ENGRAM_ASSIGN_OR_RETURN(item.task, json_string(json, "task", where));
  ENGRAM_ASSIGN_OR_RETURN(item.id, json_string(json, "id", where));
  ENGRAM_ASSIGN_OR_RETURN(item.prompt, json_string(json, "prompt", where));
  if (json_find(json, "split") != nullptr) {
    ENGRAM_ASSIGN_OR_RETURN(item.split, json_string(json, "split", where));
    if (item.split != "train" && item.split != "held-out") {
      return invalid_argument("{}: split: got {}, wanted \"train\" or \"held-out\"", where, quote_text(item.split));
    }
  }
  const bool choice = json_find(json, "choices") != nullptr;
  if (choice == (json_find(json, "targets") != nullptr)) {
    return invalid_argument("{}: got {} of \"choices\" and \"targets\", wanted one", where, choice ? "both" : "none");
  }
  if (choice) {
    ENGRAM_ASSIGN_OR_RETURN(item.choices, string_list(json, "choices", where, 2));
    ENGRAM_ASSIGN_OR_RETURN(item.answer,
                            json_integer(json, "answer", where, 0, static_cast<int64_t>(item.choices.size()) - 1));
  } else {
    ENGRAM_ASSIGN_OR_RETURN(item.targets, string_list(json, "targets", where, 1));
  }
  return item;
}

}  // namespace

Result<std::vector<EvalItem>> parse_eval_items(std::string_view text, const std::string& name) {
  std::vector<EvalItem> items;
  std::set<std::pair<std::string, std::string>> seen;
  int64_t line_number = 0;
  while (!text.empty()) {
    const std::string_view line = take_line(text);
    const std::string where = fmt::format("{}:{}", name, ++line_number);
    if (line.empty()) continue;
    ENGRAM_ASSIGN_OR_RETURN(const nlohmann::json json, parse_json(line, where));
    ENGRAM_ASSIGN_OR_RETURN(EvalItem item, parse_item(json, where));
    if (!seen.emplace(item.task, item.id).second) {
      return invalid_argument("{}: id: got {} of task {} twice", where, quote_text(item.id), quote_text(item.task));
    }
    items.push_back(std::move(item));
  }
  if (items.empty()) return invalid_argument("{}: got no item, wanted JSON lines", name);
  return items;
}

Result<std::vector<EvalItem>> read_eval_items(Env& env, const std::string& path) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, env.read_file(path));
  ENGRAM_RETURN_IF_ERROR(check_not_foreign(text, path));
  return parse_eval_items(text, path);
}

}  // namespace engram
