// The part of Jinja that chat templates are written in, read into a tree (chat_template.h renders it).
//
// White space is as Hugging Face sets it: a newline behind a block goes (trim_blocks), blanks before one
// (lstrip_blocks).
#pragma once
#include <string_view>

#include "engram/core/status.h"
#include "engram/text/template_node.h"

namespace engram {

// The template's body. kInvalidArgument: malformed, or with what is not supported, which is named with its line.
Result<TemplateNode> parse_template(std::string_view source);

}  // namespace engram
