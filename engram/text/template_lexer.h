// Tokens of a chat template, and the text between its tags with the white space that Jinja leaves. The base of the
// parser.
//
// The first error stays; behind it every token is the end.
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engram/core/status.h"
#include "engram/text/template_node.h"

namespace engram {

class TemplateLexer {
 protected:
  using Node = TemplateNode;
  using Kind = TemplateNode::Kind;
  enum class Token { kEnd, kName, kString, kNumber, kOperator };

  explicit TemplateLexer(std::string_view source);
  int line() {
    for (; counted_ < at_ && counted_ < source_.size(); ++counted_) lines_ += source_[counted_] == '\n';
    return lines_;
  }
  Node node(Kind kind, std::string text = {}, std::vector<Node> parts = {}) const {
    return {kind, line_, std::move(text), {}, std::move(parts)};
  }
  Node fail(const std::string& what) {
    if (status_.ok()) status_ = invalid_argument("chat template: line {}: {}", line(), what);
    token_ = Token::kEnd;
    return {};
  }
  Node refuse(const std::string& what) { return fail(what + " is not supported"); }

  void next();
  void read_string(char quote);
  bool is(std::string_view text) const {
    return (token_ == Token::kOperator || token_ == Token::kName) && text_ == text;
  }
  bool take(std::string_view text);
  void expect(std::string_view text);
  std::string take_name();
  // Up to the inside of the next tag, whose second character it returns; 0 at the end. Comments are passed over.
  char add_text(Node& body);
  void skip_behind(bool strip, bool newline);
  void close(std::string_view end);

  Token token_ = Token::kEnd;
  std::string text_;  // of the token
  Status status_;

 private:
  std::string source_;
  size_t at_ = 0, counted_ = 0;
  int lines_ = 1, line_ = 1, open_ = 0, tokens_ = 0;
};

}  // namespace engram
