#include "engram/text/template_parser.h"

#include <algorithm>
#include <iterator>

#include "engram/core/json.h"
#include "engram/text/template_lexer.h"
#include "engram/text/unicode.h"

namespace engram {
namespace {

constexpr int kMaxDepth = 100;
constexpr std::string_view kFilters[] = {"trim",   "tojson",     "default", "d",      "length",  "count",      "upper",
                                         "lower",  "capitalize", "title",   "join",   "first",   "last",       "list",
                                         "items",  "string",     "int",     "float",  "replace", "selectattr", "map",
                                         "select", "rejectattr", "safe",    "reject", "reverse", "abs"};
constexpr std::string_view kTests[] = {"defined", "undefined", "none",    "string",  "number",   "integer",  "float",
                                       "boolean", "true",      "false",   "mapping", "iterable", "sequence", "odd",
                                       "even",    "in",        "equalto", "eq",      "ne"};

class Parser : TemplateLexer {
 public:
  explicit Parser(std::string_view source) : TemplateLexer(source) {}
  Result<Node> run() {
    Node body = parse_body({});
    if (!status_.ok()) return status_;
    return body;
  }

 private:
  // Expressions, from the loosest binding to the tightest.
  Node expression() {
    if (++depth_ > kMaxDepth) return refuse(fmt::format("nesting deeper than {}", kMaxDepth));
    Node left = logical(0);
    while (take("if")) {
      Node condition = logical(0), other;
      if (take("else")) other = expression();
      left = node(Kind::kChoice, "", {std::move(left), std::move(condition), std::move(other)});
    }
    --depth_;
    return left;
  }
  Node logical(int level) {
    if (level == 2) {
      if (++depth_ > kMaxDepth) return refuse(fmt::format("nesting deeper than {}", kMaxDepth));
      Node result = take("not") ? node(Kind::kNot, "", {logical(2)}) : comparison();
      --depth_;
      return result;
    }
    Node left = logical(level + 1);
    while (take(level == 0 ? "or" : "and"))
      left = node(level == 0 ? Kind::kOr : Kind::kAnd, "", {std::move(left), logical(level + 1)});
    return left;
  }
  Node comparison() {
    Node left = arithmetic(0), all;
    for (;;) {
      std::string op = text_;
      if (token_ == Token::kName && op == "not") {
        next();
        if (!is("in")) return fail("wanted 'in' behind 'not'");
        op = "not in";
      } else if (!(token_ == Token::kOperator &&
                   (op == "==" || op == "!=" || op == "<" || op == "<=" || op == ">" || op == ">=")) &&
                 !is("in")) {
        return all.kind == Kind::kAbsent ? left : all;
      }
      next();
      Node right = arithmetic(0), one = node(Kind::kCompare, op, {std::move(left), right});
      all = all.kind == Kind::kAbsent ? std::move(one) : node(Kind::kAnd, "", {std::move(all), std::move(one)});
      left = std::move(right);
    }
  }
  Node arithmetic(int level) {
    static const std::vector<std::vector<std::string_view>> kLevels = {{"+", "-"}, {"~"}, {"*", "/", "//", "%"}};
    if (level == 3) return unary(true);
    Node left = arithmetic(level + 1);
    const auto& operators = kLevels[static_cast<size_t>(level)];
    while (token_ == Token::kOperator && std::find(operators.begin(), operators.end(), text_) != operators.end()) {
      std::string op = text_;
      next();
      left = node(Kind::kBinary, std::move(op), {std::move(left), arithmetic(level + 1)});
    }
    return left;
  }
  Node unary(bool with_filters) {
    if (++depth_ > kMaxDepth) return refuse(fmt::format("nesting deeper than {}", kMaxDepth));
    Node result;
    if (take("-")) {
      result = node(Kind::kNegative, "", {unary(false)});
    } else {
      result = take("+") ? unary(false) : primary();
    }
    result = postfix(std::move(result), with_filters);
    --depth_;
    return result;
  }
  Node primary() {
    Node result = node(Kind::kLiteral, text_);
    const Token token = token_;
    if (take("(")) return in_parentheses();
    if (take("[")) return node(Kind::kList, "", list_until("]"));
    if (take("{")) return dictionary();
    next();
    if (token == Token::kString) {
      result.literal = result.text;
      while (token_ == Token::kString) {  // neighbours join
        result.literal = result.literal.get<std::string>() + text_;
        next();
      }
    } else if (token == Token::kNumber) {
      result.literal = nlohmann::ordered_json::parse(result.text, nullptr, false);
      if (!result.literal.is_number()) return fail("a bad number");
      if (result.literal.is_number_unsigned() && result.literal.get<uint64_t>() > INT64_MAX)
        return refuse("a number this large");
    } else if (token != Token::kName) {
      return fail(fmt::format("wanted an expression, got {}",
                              token == Token::kEnd ? "the tag's end" : quote_text(result.text)));
    } else if (result.text == "true" || result.text == "True" || result.text == "false" || result.text == "False") {
      result.literal = result.text == "true" || result.text == "True";
    } else if (result.text != "none" && result.text != "None") {
      result.kind = Kind::kName;
    }
    return result;
  }
  Node in_parentheses() {
    if (take(")")) return node(Kind::kList);
    Node inner = expression();
    if (take(")")) return inner;
    expect(",");
    std::vector<Node> items = list_until(")");
    items.insert(items.begin(), std::move(inner));
    return node(Kind::kList, "", std::move(items));
  }
  std::vector<Node> list_until(std::string_view close) {
    std::vector<Node> items;
    while (status_.ok() && !take(close)) {
      if (is("*") || is("**")) refuse("an argument with a star");
      Node item = expression();
      if (close == ")" && item.kind == Kind::kName && take("=")) item = node(Kind::kKeyword, item.text, {expression()});
      items.push_back(std::move(item));
      if (!is(close)) expect(",");
    }
    return items;
  }
  Node dictionary() {
    Node result = node(Kind::kDict);
    while (status_.ok() && !take("}")) {
      result.parts.push_back(expression());
      expect(":");
      result.parts.push_back(expression());
      if (!is("}")) expect(",");
    }
    return result;
  }
  Node postfix(Node left, bool with_filters) {
    for (int links = 0; status_.ok(); ++links) {
      if (links > kMaxDepth) return refuse(fmt::format("a chain longer than {}", kMaxDepth));
      if (take(".")) {
        if (token_ == Token::kNumber) return refuse("an index behind a point");
        left = node(Kind::kAttribute, take_name(), {std::move(left)});
      } else if (take("[")) {
        left = subscript(std::move(left));
      } else if (take("(")) {
        left = node(Kind::kCall, "", {std::move(left)});
        for (Node& argument : list_until(")")) left.parts.push_back(std::move(argument));
      } else if (with_filters && take("|")) {
        left = named(Kind::kFilter, std::move(left));
      } else if (with_filters && is("is")) {
        next();
        const bool negated = take("not");
        left = named(Kind::kTest, std::move(left));
        if (negated) left = node(Kind::kNot, "", {std::move(left)});
      } else {
        break;
      }
    }
    return left;
  }
  Node subscript(Node object) {
    std::vector<Node> bounds(1);
    if (!is(":")) bounds[0] = expression();
    if (is("]")) {
      next();
      return node(Kind::kIndex, "", {std::move(object), std::move(bounds[0])});
    }
    while (status_.ok() && bounds.size() < 3 && take(":")) bounds.push_back(is(":") || is("]") ? Node{} : expression());
    bounds.resize(3);
    expect("]");
    bounds.insert(bounds.begin(), std::move(object));
    return node(Kind::kSlice, "", std::move(bounds));
  }
  Node named(Kind kind, Node value) {
    const bool filter = kind == Kind::kFilter;
    Node result = node(kind, text_, {std::move(value)});
    const bool known = filter ? std::find(std::begin(kFilters), std::end(kFilters), text_) != std::end(kFilters)
                              : std::find(std::begin(kTests), std::end(kTests), text_) != std::end(kTests);
    if (!known) return refuse(fmt::format("the {} {}", filter ? "filter" : "test", quote_text(text_)));
    next();
    if (take("(")) {
      for (Node& argument : list_until(")")) result.parts.push_back(std::move(argument));
    } else if (!filter && (token_ == Token::kString || token_ == Token::kNumber || is("[") || is("{") ||
                           (token_ == Token::kName && !is("else") && !is("or") && !is("and") && !is("is") &&
                            !is("if") && !is("not") && !is("in")))) {
      Node argument = primary();
      result.parts.push_back(postfix(std::move(argument), false));
    }
    return result;
  }

  // Statements.
  Node parse_body(const std::vector<std::string_view>& ends) {
    if (++depth_ > kMaxDepth) return refuse(fmt::format("nesting deeper than {}", kMaxDepth));
    Node body = node(Kind::kBody);
    for (;;) {
      const char kind = add_text(body);
      if (!status_.ok()) return {};
      if (kind == '\0') {
        if (!ends.empty()) return fail(fmt::format("the file ends before '{}'", ends.back()));
        break;
      }
      if (kind == '{') {
        next();
        Node output = node(Kind::kOutput, "", {expression()});
        close("}}");
        body.parts.push_back(std::move(output));
        continue;
      }
      next();
      tag_ = take_name();
      if (std::find(ends.begin(), ends.end(), tag_) != ends.end()) break;
      body.parts.push_back(statement(tag_));
    }
    --depth_;
    return body;
  }
  Node statement(const std::string& tag) {
    if (tag == "if") return if_block();
    if (tag == "for") return for_block();
    if (tag == "set") return set_block();
    if (tag == "macro") return macro_block();
    if (tag == "break" || tag == "continue") {
      if (loops_ == 0) return fail(fmt::format("'{}' outside of a loop", tag));
      close("%}");
      return node(tag == "break" ? Kind::kBreak : Kind::kContinue);
    }
    if (tag == "generation") {  // marks the assistant's text for training
      close("%}");
      Node body = parse_body({"endgeneration"});
      close("%}");
      return body;
    }
    return refuse(fmt::format("the tag {}", quote_text(tag)));
  }
  Node if_block() {
    Node result = node(Kind::kIf, "", {expression()});
    close("%}");
    result.parts.push_back(parse_body({"elif", "else", "endif"}));
    if (tag_ == "elif") {
      if (++depth_ > kMaxDepth) return refuse(fmt::format("more than {} cases", kMaxDepth));
      result.parts.push_back(if_block());
      --depth_;
      return result;
    }
    if (tag_ == "else") {
      close("%}");
      result.parts.push_back(parse_body({"endif"}));
    }
    close("%}");
    return result;
  }
  std::vector<Node> targets() {
    std::vector<Node> names;
    const bool parenthesis = take("(");
    do {
      Node name = node(Kind::kName, take_name());
      if (take(".")) name = node(Kind::kAttribute, take_name(), {std::move(name)});
      names.push_back(std::move(name));
    } while (status_.ok() && take(","));
    if (parenthesis) expect(")");
    return names;
  }
  Node for_block() {
    Node result = node(Kind::kFor, "", {node(Kind::kList, "", targets())});
    expect("in");
    result.parts.push_back(logical(0));
    result.parts.push_back(take("if") ? expression() : Node{});
    if (is("recursive")) return refuse("a recursive loop");
    close("%}");
    ++loops_;
    result.parts.push_back(parse_body({"else", "endfor"}));
    --loops_;
    if (tag_ == "else") {
      close("%}");
      result.parts.push_back(parse_body({"endfor"}));
    } else {
      result.parts.push_back(node(Kind::kBody));
    }
    close("%}");
    return result;
  }
  Node set_block() {
    Node names = node(Kind::kList, "", targets());
    if (take("=")) {
      Node value = expression();
      if (is(",")) {
        value = node(Kind::kList, "", {std::move(value)});
        while (take(",")) value.parts.push_back(expression());
      }
      close("%}");
      return node(Kind::kSet, "", {std::move(names), std::move(value)});
    }
    if (is("|")) return refuse("a filter in a set block");
    close("%}");
    Node body = parse_body({"endset"});
    close("%}");
    return node(Kind::kSetBlock, "", {std::move(names), std::move(body)});
  }
  Node macro_block() {
    Node result = node(Kind::kMacro, take_name());
    expect("(");
    while (status_.ok() && !take(")")) {
      Node parameter = node(Kind::kKeyword, take_name(), {Node{}});
      if (take("=")) parameter.parts[0] = expression();
      result.parts.push_back(std::move(parameter));
      if (!is(")")) expect(",");
    }
    close("%}");
    const int loops = std::exchange(loops_, 0);
    result.parts.push_back(parse_body({"endmacro"}));
    loops_ = loops;
    close("%}");
    return result;
  }

  std::string tag_;  // the last tag's name
  int depth_ = 0, loops_ = 0;
};

}  // namespace

Result<TemplateNode> parse_template(std::string_view source) {
  if (find_invalid_utf8(source) != std::string_view::npos) return invalid_argument("chat template: not UTF-8");
  if (source.size() > size_t{1} << 20)
    return invalid_argument("chat template: {} bytes, wanted at most 1 MiB", source.size());
  return Parser(source).run();
}

}  // namespace engram
