// JSON lines as training text: one document a line, which is one of
//   {"text": "..."}                        all of it is to be learned
//   {"prompt": "...", "answer": "..."}     one text, of which the answer is to be learned
// Other keys are nobody's business. Lines of white space are left out.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engram/core/status.h"

namespace engram {

struct JsonDocument {
  std::string text;    // prompt and answer, one after the other
  int64_t answer = 0;  // the byte where the answer begins; 0: all is to be learned
  bool operator==(const JsonDocument&) const = default;
};

bool is_json_lines_name(std::string_view path);  // ends in .jsonl, .jsonl.gz or .jsonl.zst

// name: the file's. text_field: the key that stands for "text". kInvalidArgument, kDataLoss, with file and line: not
// UTF-8, not a JSON object, none or both of the two forms, a value that is no string, an empty answer.
Result<std::vector<JsonDocument>> read_json_lines(std::string_view text, const std::string& name,
                                                  const std::string& text_field);

}  // namespace engram
