// The two long lists of a tokenizer.json, `model.vocab` and `model.merges`, as views of the file's text.
//
// They are nearly all of the file. For 129,280 tokens a DOM of them takes 100 MB and a second; this reader takes 10 MB
// and 30 ms. It reads the form that all such files have, and nothing else. A caller that gets no answer from it reads
// the file as a DOM, which also says what is wrong with a bad one.
#pragma once
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace engram {

struct ModelLists {
  struct Token {
    std::string_view text;
    int32_t id;
  };
  struct Merge {
    std::string_view left, right;
    size_t index;  // its place in the array, for messages
  };
  std::vector<Token> vocabulary;      // in the file's order
  std::vector<Merge> merges;          // by rank, without lines such as "#version: 0.2"
  std::deque<std::string> unescaped;  // what views of strings with escapes look into
};

struct SplitTokenizerFile {
  ModelLists lists;  // views into the text
  std::string rest;  // the file with an empty object and an empty array in their places
};

// "a b" -> the two parts; false where there is not exactly one blank.
bool split_merge(std::string_view text, std::string_view& left, std::string_view& right);
// Lines of a merges file that are no merges.
bool is_merges_header(std::string_view text);
// nullopt: the text is not JSON, has no such lists once each, or a value in them is of another kind than wanted. Where
// there is an answer, the text is JSON if and only if `rest` is, except for keys that appear twice in the vocabulary.
// The views last as long as `text`.
std::optional<SplitTokenizerFile> split_tokenizer_file(std::string_view text);

}  // namespace engram
