// A chat template as a tree of expressions and statements.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace engram {

struct TemplateNode {
  enum class Kind {
    // Expressions; parts in this order.
    kLiteral,
    kName,
    kList,
    kDict,       // key, value, key, ...
    kAttribute,  // object; text
    kIndex,      // object, index
    kSlice,      // object, start, stop, step; absent ones are kAbsent
    kAbsent,
    kCall,     // callee, arguments
    kKeyword,  // an argument text=value
    kFilter,   // value, arguments; text
    kTest,     // value, arguments; text
    kNot,
    kNegative,
    kBinary,  // left, right; text is the operator
    kCompare,
    kAnd,
    kOr,
    kChoice,  // then, condition, else or kAbsent
    // Statements.
    kText,
    kOutput,
    kBody,
    kIf,        // condition, body, else
    kFor,       // targets, list, filter or kAbsent, body, else
    kSet,       // targets, value
    kSetBlock,  // targets, body
    kMacro,     // text; parameters (kKeyword, its value or kAbsent), then the body
    kBreak,
    kContinue
  };
  Kind kind = Kind::kAbsent;
  int line = 0;
  std::string text = {};
  nlohmann::ordered_json literal = {};
  std::vector<TemplateNode> parts = {};
};

}  // namespace engram
