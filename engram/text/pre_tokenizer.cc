#include "engram/text/pre_tokenizer.h"

#include <optional>
#include <utility>

#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/text/byte_alphabet.h"
#include "engram/text/unicode.h"

namespace engram {
namespace {

enum class Behavior { kIsolated, kRemoved, kContiguous, kMergedWithPrevious, kMergedWithNext };
const EnumNames<Behavior> kBehaviors = {{Behavior::kIsolated, "Isolated"},
                                        {Behavior::kRemoved, "Removed"},
                                        {Behavior::kContiguous, "Contiguous"},
                                        {Behavior::kMergedWithPrevious, "MergedWithPrevious"},
                                        {Behavior::kMergedWithNext, "MergedWithNext"}};
enum class Prepend { kAlways, kFirst, kNever };
const EnumNames<Prepend> kPrepends = {
    {Prepend::kAlways, "always"}, {Prepend::kFirst, "first"}, {Prepend::kNever, "never"}};

// GPT-2's pattern, which ByteLevel carries.
constexpr std::string_view kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Joins slices in place as the behavior says; what stays is in order.
void apply_behavior(Behavior behavior, std::vector<Match>& slices) {
  size_t kept = 0;
  bool previous = false;
  switch (behavior) {
    case Behavior::kIsolated: return;
    case Behavior::kRemoved: std::erase_if(slices, [](const Match& slice) { return slice.matched; }); return;
    case Behavior::kContiguous:
    case Behavior::kMergedWithPrevious:
      for (const Match& slice : slices) {
        bool join = behavior == Behavior::kContiguous ? slice.matched == previous : slice.matched && !previous;
        previous = slice.matched;
        if (join && kept > 0) {
          slices[kept - 1].end = slice.end;
        } else {
          slices[kept++] = slice;
        }
      }
      slices.resize(kept);
      return;
    case Behavior::kMergedWithNext:
      kept = slices.size();  // the kept ones gather at the end
      for (size_t i = slices.size(); i-- > 0;) {
        const Match slice = slices[i];
        if (slice.matched && !previous && kept < slices.size()) {
          slices[kept].begin = slice.begin;
        } else {
          slices[--kept] = slice;
        }
        previous = slice.matched;
      }
      slices.erase(slices.begin(), slices.begin() + static_cast<std::ptrdiff_t>(kept));
      return;
  }
}

// Every character of a kind is a slice.
void slice_characters(std::string_view text, bool (*is_match)(char32_t), std::vector<Match>& slices) {
  size_t covered = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    if (!is_match(next_code_point(text, at))) continue;
    if (covered < begin) slices.push_back({{covered, begin}, false});
    slices.push_back({{begin, at}, true});
    covered = at;
  }
  if (covered < text.size()) slices.push_back({{covered, text.size()}, false});
}

// Runs of word characters and runs of others, without white space between them.
void slice_words(std::string_view text, std::vector<Match>& slices) {
  const auto kind_of = [](char32_t c) { return is_white_space(c) ? 0 : is_word_character(c) ? 1 : 2; };
  int last = -1;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const int kind = kind_of(next_code_point(text, at));
    if (kind == last) {
      slices.back().end = at;
    } else {
      slices.push_back({{begin, at}, kind == 0});
    }
    last = kind;
  }
}

// Ends of slices of a text in the byte alphabet, as ends in the bytes.
void to_bytes(std::string_view spelled, std::vector<Match>& slices) {
  size_t at = 0, bytes = 0;
  const auto move_to = [&](size_t end) {
    for (; at < end; ++bytes) next_code_point(spelled, at);
    return bytes;
  };
  for (Match& slice : slices) {
    slice.begin = move_to(slice.begin);
    slice.end = move_to(slice.end);
  }
}

}  // namespace

// One step: each piece becomes its parts. A prefix and a replacement come before the cutting.
struct PreTokenizer::Stage {
  std::optional<Pattern> pattern;
  bool (*is_match)(char32_t) = nullptr;  // where there is no pattern
  bool words = false;                    // Whitespace
  Behavior behavior = Behavior::kIsolated;
  bool invert = false;
  bool spelled = false;  // behind ByteLevel: sees bytes as the alphabet spells them
  std::string prefix;    // of each piece that does not begin with it
  Prepend prepend = Prepend::kAlways;
  bool blanks = false;  // Metaspace: a blank becomes the prefix's character, `mark`
  std::string mark;
  LineFeedCut cut = LineFeedCut::kHarmless;

  std::string_view rewrite(std::string_view piece, bool first, std::deque<std::string>& storage) const {
    if (!blanks && (prefix.empty() || piece.starts_with(prefix))) return piece;
    std::string text;
    for (const char c : piece) {
      if (blanks && c == ' ') {
        text += mark;
      } else {
        text += c;
      }
    }
    const bool wanted = prepend == Prepend::kAlways || (prepend == Prepend::kFirst && first);
    if (!prefix.empty() && wanted && !text.starts_with(prefix)) text.insert(0, prefix);
    return storage.emplace_back(std::move(text));
  }

  Status slice(std::string_view piece, bool plain, std::vector<Match>& slices) const {
    if (pattern) return pattern->slice(piece, plain, slices);
    if (is_match) {
      slice_characters(piece, is_match, slices);
    } else if (words) {
      slice_words(piece, slices);
    } else {
      slices.push_back({{0, piece.size()}, false});
    }
    return Status();
  }

  Status apply(std::string_view text, bool first, bool plain, std::vector<std::string_view>& pieces,
               std::deque<std::string>& storage) const {
    std::vector<std::string_view> parts;
    parts.reserve(pieces.size() * 2);
    std::vector<Match> slices;
    for (std::string_view piece : pieces) {
      piece = rewrite(piece, first && piece.data() == text.data(), storage);
      slices.clear();
      if (spelled) {
        const std::string spelling = byte_level_encode(piece);
        ENGRAM_RETURN_IF_ERROR(slice(spelling, true, slices));
        to_bytes(spelling, slices);
      } else {
        ENGRAM_RETURN_IF_ERROR(slice(piece, plain, slices));
      }
      if (invert) {
        for (Match& match : slices) match.matched = !match.matched;
      }
      apply_behavior(behavior, slices);
      for (const Match& match : slices) {
        if (match.begin < match.end) parts.push_back(piece.substr(match.begin, match.end - match.begin));
      }
    }
    pieces.swap(parts);
    return Status();
  }
};

PreTokenizer::PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;
PreTokenizer::~PreTokenizer() = default;

Result<PreTokenizer> PreTokenizer::parse(const nlohmann::json& value, const std::string& where) {
  PreTokenizer pre_tokenizer;
  if (!value.is_null()) ENGRAM_RETURN_IF_ERROR(pre_tokenizer.add(value, where));
  return pre_tokenizer;
}

Status PreTokenizer::add(const nlohmann::json& value, const std::string& where) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string type, read_field<std::string>(value, "type", where));
  if (type == "Sequence") {
    const nlohmann::json* parts = json_find(value, "pretokenizers");
    if (parts == nullptr || !parts->is_array()) return invalid_argument("{}: no \"pretokenizers\" array", where);
    for (const nlohmann::json& part : *parts) ENGRAM_RETURN_IF_ERROR(add(part, where));
    return Status();
  }
  if (type == "Split") return add_split(value, where);
  if (type == "ByteLevel") return add_byte_level(value, where);
  if (type == "Metaspace") return add_metaspace(value, where);
  Stage stage;
  stage.spelled = byte_level_;
  if (type == "Digits") {
    ENGRAM_ASSIGN_OR_RETURN(const bool individual, read_field<bool>(value, "individual_digits", where));
    stage.is_match = is_numeric;
    stage.behavior = individual ? Behavior::kIsolated : Behavior::kContiguous;
  } else if (type == "Punctuation") {
    stage.is_match = is_punctuation;
    Fields fields(value, where);
    fields("behavior", stage.behavior, kBehaviors);
    ENGRAM_RETURN_IF_ERROR(fields.status());
  } else if (type == "WhitespaceSplit" || type == "Whitespace") {
    stage.is_match = type == "Whitespace" ? nullptr : is_white_space;
    stage.words = type == "Whitespace";
    stage.behavior = Behavior::kRemoved;
  } else if (type == "CharDelimiterSplit") {
    ENGRAM_ASSIGN_OR_RETURN(const std::string delimiter, read_field<std::string>(value, "delimiter", where));
    ENGRAM_ASSIGN_OR_RETURN(stage.pattern, Pattern::compile_literal(delimiter));
    stage.behavior = Behavior::kRemoved;
  } else {
    return invalid_argument("{}: type {} is not supported", where, quote_text(type));
  }
  const bool keeps_matches = stage.behavior == Behavior::kIsolated || stage.behavior == Behavior::kContiguous;
  stage.cut = stage.is_match && keeps_matches ? LineFeedCut::kHarmless : LineFeedCut::kUnproven;
  stages_.push_back(std::move(stage));
  return Status();
}

Status PreTokenizer::add_split(const nlohmann::json& value, const std::string& where) {
  Stage stage;
  Fields fields(value, where);
  fields.need("behavior", stage.behavior, kBehaviors);
  fields.need("invert", stage.invert);
  ENGRAM_RETURN_IF_ERROR(fields.status());
  ENGRAM_ASSIGN_OR_RETURN(stage.pattern, Pattern::parse(value, where));
  stage.spelled = byte_level_;
  // Other behaviors join a slice with its neighbours, of which the parts may lack one.
  const bool keeps_matches = stage.behavior == Behavior::kIsolated && !stage.invert;
  const bool drops_the_rest = stage.behavior == Behavior::kRemoved && stage.invert;
  stage.cut =
      !stage.spelled && (keeps_matches || drops_the_rest) ? stage.pattern->line_feed_cut() : LineFeedCut::kUnproven;
  stages_.push_back(std::move(stage));
  return Status();
}

Status PreTokenizer::add_metaspace(const nlohmann::json& value, const std::string& where) {
  if (byte_level_ || metaspace_) return invalid_argument("{}: Metaspace behind another is not supported", where);
  metaspace_ = true;
  Stage stage;
  stage.blanks = true;
  stage.behavior = Behavior::kMergedWithNext;
  stage.cut = LineFeedCut::kUnproven;
  bool split = true, add_prefix_space = true;  // the second is of older files
  Fields fields(value, where);
  fields.need("replacement", stage.mark);
  fields("split", split);
  fields("add_prefix_space", add_prefix_space);
  fields("prepend_scheme", stage.prepend, kPrepends);
  ENGRAM_RETURN_IF_ERROR(fields.status());
  if (!add_prefix_space) stage.prepend = Prepend::kNever;
  looks_at_first_ = stage.prepend == Prepend::kFirst;
  if (stage.mark.empty()) return invalid_argument("{}: replacement: an empty string", where);
  if (split) {
    ENGRAM_ASSIGN_OR_RETURN(stage.pattern, Pattern::compile_literal(stage.mark));
  }
  stage.prefix = stage.mark;
  stages_.push_back(std::move(stage));
  return Status();
}

Status PreTokenizer::add_byte_level(const nlohmann::json& value, const std::string& where) {
  if (byte_level_) return invalid_argument("{}: ByteLevel behind another is not supported", where);
  byte_level_ = true;
  bool use_regex = true, add_prefix_space = false;  // the first is newer than the first files
  Fields fields(value, where);
  fields.need("add_prefix_space", add_prefix_space);
  fields("use_regex", use_regex);
  ENGRAM_RETURN_IF_ERROR(fields.status());
  Stage stage;
  if (add_prefix_space) stage.prefix = " ";
  if (use_regex) {
    ENGRAM_ASSIGN_OR_RETURN(stage.pattern, Pattern::compile(kByteLevelPattern));
    if (!add_prefix_space) stage.cut = LineFeedCut::kBoundary;  // the pattern ends in \s+
  }
  stages_.push_back(std::move(stage));
  return Status();
}

bool PreTokenizer::may_cut_behind_line_feeds() const {
  bool boundary = false;
  for (const Stage& stage : stages_) {
    if (stage.cut == LineFeedCut::kUnproven) return false;
    boundary = boundary || stage.cut == LineFeedCut::kBoundary;
  }
  return boundary;
}

Status PreTokenizer::split(std::string_view text, bool first, std::vector<std::string_view>& words,
                           std::deque<std::string>& storage) const {
  if (text.empty()) return Status();
  const bool plain = !needs_stand_ins(text);
  std::vector<std::string_view> pieces = {text};
  for (const Stage& stage : stages_) ENGRAM_RETURN_IF_ERROR(stage.apply(text, first, plain, pieces, storage));
  words.insert(words.end(), pieces.begin(), pieces.end());
  return Status();
}

}  // namespace engram
