// Documents: where one text of a file ends and the next begins, and where a long one may be cut for tokenising.
#pragma once
#include <cstddef>
#include <string_view>
#include <vector>

#include "engram/text/text_cuts.h"

namespace engram {

// The documents of a file, as views into `text`, in order. `separator` is one of
//   "auto"        a line that holds only <|endoftext|> or only a form feed; a file without one is one document
//   "blank-line"  one or more lines without any other than white-space characters
//   "none"        the file is one document
//   other text    a line equal to it
// Separator lines belong to no document. Line breaks around a document (and a byte order mark at the file's start)
// are dropped, and so are documents of white space only.
std::vector<std::string_view> split_documents(std::string_view text, std::string_view separator);

// `text` in pieces of at least `min_bytes` (the last may be shorter), cut only where the tokenizer proves that the
// pieces' ids are the whole text's. Text without such a place stays in one piece.
std::vector<std::string_view> split_pieces(std::string_view text, size_t min_bytes, const TextCuts& cuts);

}  // namespace engram
