#include "engram/lab/text/eval_items.h"

#include <algorithm>
#include <set>

#include "engram/core/fields.h"
#include "engram/core/file_kind.h"
#include "engram/core/json.h"
#include "engram/core/lines.h"

namespace engram {
namespace {

const EnumNames<std::string> kSplitNames = {{"train", "train"}, {"held-out", "held-out"}};

Result<EvalItem> parse_item(const nlohmann::json& json, const std::string& where) {
  EvalItem item;
  Fields fields(json, where);
  fields.need("task", item.task);
  fields.need("id", item.id);
  fields.need("prompt", item.prompt);
  fields("split", item.split, kSplitNames);
  fields("choices", item.choices);
  fields("targets", item.targets);
  fields.skip({"answer"});
  ENGRAM_RETURN_IF_ERROR(fields.finish());
  const bool choice = json_find(json, "choices") != nullptr;
  if (choice == (json_find(json, "targets") != nullptr)) {
    return invalid_argument("{}: got {} of \"choices\" and \"targets\", wanted one", where, choice ? "both" : "none");
  }
  const std::vector<std::string>& texts = choice ? item.choices : item.targets;
  const size_t least = choice ? 2 : 1;
  if (texts.size() < least || std::find(texts.begin(), texts.end(), "") != texts.end())
    fields.fail(choice ? "choices" : "targets", fmt::format("wanted at least {} texts, none of them empty", least));
  if (choice) fields.need("answer", item.answer, 0, std::ssize(texts) - 1);
  ENGRAM_RETURN_IF_ERROR(fields.status());
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
