#include "engram/core/json.h"

#include <vector>

#include "engram/core/file_kind.h"
#include "engram/core/utf8.h"

namespace engram {
namespace {

using nlohmann::json;

// Builds the value while it enforces what nlohmann's own parser leaves open: depth and duplicate keys.
template <typename Json>
class DomBuilder : public nlohmann::json_sax<Json> {
 public:
  DomBuilder(const std::string& name, int max_depth) : name_(name), max_depth_(max_depth) {}

  bool null() override { return add(Json()) != nullptr; }
  bool boolean(bool value) override { return add(Json(value)) != nullptr; }
  bool number_integer(int64_t value) override { return add(Json(value)) != nullptr; }
  bool number_unsigned(uint64_t value) override { return add(Json(value)) != nullptr; }
  bool number_float(double value, const std::string&) override { return add(Json(value)) != nullptr; }
  bool string(std::string& value) override { return add(Json(std::move(value))) != nullptr; }
  bool binary(typename Json::binary_t&) override { return false; }  // text has none
  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(std::string& value) override {
    if (stack_.back()->contains(value)) {
      status_ = data_loss("{}: key {} appears twice in one object; wanted each key once", name_, quote_text(value));
      return false;
    }
    key_ = std::move(value);
    return true;
  }
  bool parse_error(size_t position, const std::string&, const json::exception& error) override {
    std::string_view reason = error.what();
    if (size_t end = reason.find("] "); end != std::string_view::npos) reason.remove_prefix(end + 2);
    status_ = data_loss("{}: not JSON at byte {}: {}", name_, position, quote_text(reason, 200));
    return false;
  }

  Json take() { return std::move(root_); }
  const Status& status() const { return status_; }

 private:
  Json* add(Json value) {
    if (stack_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    return &(parent[key_] = std::move(value));
  }
  bool open(Json value) {
    if (static_cast<int>(stack_.size()) >= max_depth_) {
      status_ = data_loss("{}: nested deeper than {} levels", name_, max_depth_);
      return false;
    }
    stack_.push_back(add(std::move(value)));
    return true;
  }
  bool close() {
    stack_.pop_back();
    return true;
  }

  const std::string& name_;
  int max_depth_;
  Json root_;
  std::vector<Json*> stack_;  // open containers; only the last one grows, so the pointers stay good
  std::string key_;
  Status status_;
};

template <typename Json>
Result<Json> parse(std::string_view text, const std::string& name, int max_depth) {
  DomBuilder<Json> builder(name, max_depth);
  bool done = Json::sax_parse(text.begin(), text.end(), &builder);
  if (!builder.status().ok()) return builder.status();
  if (!done) return data_loss("{}: not JSON", name);
  return builder.take();
}

// Bytes of the printable character that `text` begins with, 0 when that is something else.
size_t printable_length(std::string_view text) {
  const Utf8Sequence next = next_utf8(text);
  const auto byte = [text](size_t i) { return static_cast<unsigned char>(text[i]); };
  if (!next.valid || byte(0) < 0x20 || byte(0) == 0x7F || (byte(0) == 0xC2 && byte(1) < 0xA0)) return 0;
  return next.length;
}

}  // namespace

Result<json> parse_json(std::string_view text, const std::string& name, int max_depth) {
  return parse<json>(text, name, max_depth);
}

Result<nlohmann::ordered_json> parse_ordered_json(std::string_view text, const std::string& name, int max_depth) {
  return parse<nlohmann::ordered_json>(text, name, max_depth);
}

Result<json> read_json_file(Env& env, const std::string& path) {
  constexpr int64_t kMostBytes = int64_t{256} << 20;  // the values take many times as much
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, env.read_file(path, {.max_bytes = kMostBytes}));
  ENGRAM_RETURN_IF_ERROR(check_not_foreign(text, path));
  return parse_json(text, path);
}

const json* json_find(const json& object, const std::string& key) {
  if (!object.is_object()) return nullptr;
  auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::string quote_text(std::string_view text, size_t max_bytes) {
  std::string out = "'";
  for (size_t at = 0; at < text.size();) {
    if (at >= max_bytes) {
      out += "...";
      break;
    }
    size_t length = printable_length(text.substr(at));
    if (length == 0) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[at]));
      length = 1;
    } else {
      out += text.substr(at, length);
    }
    at += length;
  }
  return out + "'";
}

}  // namespace engram
