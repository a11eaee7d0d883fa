#include "engram/text/normalizer.h"

#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/text/replacement.h"
#include "engram/text/unicode.h"

namespace engram {
namespace {

constexpr size_t kMostSteps = 256;

std::string_view strip_sides(std::string_view text, bool left, bool right) {
  std::string_view inner = strip_white_space(text);
  if (inner.empty()) return left || right ? inner : text;
  const auto inner_begin = static_cast<size_t>(inner.data() - text.data());
  size_t begin = left ? inner_begin : 0;
  size_t end = right ? inner_begin + inner.size() : text.size();
  return text.substr(begin, end - begin);
}

}  // namespace

Result<Normalizer> Normalizer::parse(const nlohmann::json& value, const std::string& where) {
  Normalizer normalizer;
  if (!value.is_null()) ENGRAM_RETURN_IF_ERROR(normalizer.add(value, where));
  return normalizer;
}

Status Normalizer::add(const nlohmann::json& value, const std::string& where) {
  ENGRAM_ASSIGN_OR_RETURN(std::string type, read_field<std::string>(value, "type", where));
  if (steps_.size() >= kMostSteps) return invalid_argument("{}: more than {} normalizers", where, kMostSteps);
  if (type == "Sequence") {
    const nlohmann::json* parts = json_find(value, "normalizers");
    if (parts == nullptr || !parts->is_array()) return invalid_argument("{}: no \"normalizers\" array", where);
    for (const nlohmann::json& part : *parts) ENGRAM_RETURN_IF_ERROR(add(part, where));
    return Status();
  }
  constexpr std::pair<const char*, NormalForm> kForms[] = {
      {"NFC", NormalForm::kNfc}, {"NFD", NormalForm::kNfd}, {"NFKC", NormalForm::kNfkc}, {"NFKD", NormalForm::kNfkd}};
  for (auto [name, form] : kForms) {
    if (type == name) {
      steps_.push_back([form = form](std::string_view text, size_t) { return normalize(text, form); });
      return Status();
    }
  }
  if (type == "Lowercase") {
    steps_.push_back([](std::string_view text, size_t) { return lowercase(text); });
  } else if (type == "StripAccents") {
    may_move_first_ = true;
    steps_.push_back([](std::string_view text, size_t) { return strip_marks(text); });
  } else if (type == "Strip") {
    may_cut_ = false;  // it looks at the whole text
    may_move_first_ = true;
    ENGRAM_ASSIGN_OR_RETURN(bool left, read_field<bool>(value, "strip_left", where));
    ENGRAM_ASSIGN_OR_RETURN(bool right, read_field<bool>(value, "strip_right", where));
    steps_.push_back(
        [left, right](std::string_view text, size_t) { return std::string(strip_sides(text, left, right)); });
  } else if (type == "Prepend") {
    may_cut_ = false;
    may_move_first_ = true;
    ENGRAM_ASSIGN_OR_RETURN(std::string prefix, read_field<std::string>(value, "prepend", where));
    steps_.push_back(
        [prefix](std::string_view in, size_t) { return in.empty() ? std::string() : prefix + std::string(in); });
  } else if (type == "Replace") {
    may_cut_ = false;  // of what may stand around a cut
    may_move_first_ = true;
    ENGRAM_ASSIGN_OR_RETURN(const Replacement replacement, Replacement::parse(value, where));
    steps_.push_back([replacement](std::string_view in, size_t limit) { return replacement.apply(in, limit); });
  } else {
    return invalid_argument("{}: type {} is not supported", where, quote_text(type));
  }
  return Status();
}

Result<std::string> Normalizer::apply(std::string_view text) const {
  const size_t limit = most_bytes(text.size());
  std::string out(text);
  for (const auto& step : steps_) {
    ENGRAM_ASSIGN_OR_RETURN(out, step(out, limit));
    if (out.size() > limit)
      return make_status(StatusCode::kResourceExhausted,
                         "the tokenizer's normalizer makes more than {} bytes of a text of {}", limit, text.size());
  }
  return out;
}

}  // namespace engram
