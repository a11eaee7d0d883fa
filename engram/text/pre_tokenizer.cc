#include "engram/text/pre_tokenizer.h"

#include <optional>
#include <utility>

#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/text/code_point_set.h"
#include "engram/text/pattern_cuts.h"
#include "engram/text/unicode.h"

namespace engram {
namespace {

enum class Behavior { kIsolated, kRemoved, kContiguous, kMergedWithPrevious, kMergedWithNext };

// GPT-2's pattern, which ByteLevel carries.
constexpr std::string_view kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

std::optional<Behavior> behavior_of(std::string_view name) {
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Contiguous") return Behavior::kContiguous;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  return std::nullopt;
}

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

void slice_digits(std::string_view text, std::vector<Match>& slices) {
  size_t covered = 0;
  for (size_t at = 0; at < text.size();) {
    size_t begin = at;
    if (!contains(numeric_set(), next_code_point(text, at))) continue;
    if (covered < begin) slices.push_back({{covered, begin}, false});
    slices.push_back({{begin, at}, true});
    covered = at;
  }
  if (covered < text.size()) slices.push_back({{covered, text.size()}, false});
}

}  // namespace

struct PreTokenizer::Stage {
  std::optional<Pattern> pattern;  // absent: Digits
  Behavior behavior = Behavior::kIsolated;
  bool invert = false;
  LineFeedCut cut = LineFeedCut::kHarmless;  // Digits: a line feed is none

  // Replaces every span of `text` by its parts.
  Status apply(std::string_view text, bool later, std::vector<Span>& spans) const {
    std::vector<Span> parts;
    parts.reserve(spans.size() * 2);
    std::vector<Match> slices;
    for (const Span& span : spans) {
      slices.clear();
      std::string_view piece = text.substr(span.begin, span.end - span.begin);
      if (pattern) {
        ENGRAM_RETURN_IF_ERROR(pattern->slice(piece, later, slices));
      } else {
        slice_digits(piece, slices);
      }
      if (invert) {
        for (Match& slice : slices) slice.matched = !slice.matched;
      }
      apply_behavior(behavior, slices);
      for (const Match& slice : slices) {
        if (slice.begin < slice.end) parts.push_back({span.begin + slice.begin, span.begin + slice.end});
      }
    }
    spans.swap(parts);
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
  if (!pre_tokenizer.has_byte_level_) {
    return invalid_argument("{}: no ByteLevel in it; only byte-level BPE is supported", where);
  }
  return pre_tokenizer;
}

Status PreTokenizer::add(const nlohmann::json& value, const std::string& where) {
  std::string type;
  Fields fields(value, where);
  fields.need("type", type);
  ENGRAM_RETURN_IF_ERROR(fields.status());
  if (type == "Sequence") {
    const nlohmann::json* parts = json_find(value, "pretokenizers");
    if (parts == nullptr || !parts->is_array()) return invalid_argument("{}: no \"pretokenizers\" array", where);
    for (const nlohmann::json& part : *parts) ENGRAM_RETURN_IF_ERROR(add(part, where));
    return Status();
  }
  if (has_byte_level_) return invalid_argument("{}: {} after ByteLevel is not supported", where, quote_text(type));
  if (type == "Split") return add_split(value, where);
  if (type == "ByteLevel") return add_byte_level(value, where);
  if (type == "Digits") {
    ENGRAM_ASSIGN_OR_RETURN(bool individual, read_field<bool>(value, "individual_digits", where));
    Stage stage;
    stage.behavior = individual ? Behavior::kIsolated : Behavior::kContiguous;
    stages_.push_back(std::move(stage));
    return Status();
  }
  return invalid_argument("{}: type {} is not supported", where, quote_text(type));
}

Status PreTokenizer::add_split(const nlohmann::json& value, const std::string& where) {
  Stage stage;
  ENGRAM_ASSIGN_OR_RETURN(std::string behavior, read_field<std::string>(value, "behavior", where));
  std::optional<Behavior> known = behavior_of(behavior);
  if (!known) return invalid_argument("{}: Split behavior {} is not supported", where, quote_text(behavior));
  stage.behavior = *known;
  ENGRAM_ASSIGN_OR_RETURN(stage.invert, read_field<bool>(value, "invert", where));
  const nlohmann::json* pattern = json_find(value, "pattern");
  if (pattern == nullptr) return invalid_argument("{}: Split without a \"pattern\"", where);
  const bool regex = json_find(*pattern, "Regex") != nullptr;
  ENGRAM_ASSIGN_OR_RETURN(std::string text, read_field<std::string>(*pattern, regex ? "Regex" : "String", where));
  Result<Pattern> compiled = regex ? Pattern::compile(text) : Pattern::compile_literal(text);
  if (!compiled.ok()) return compiled.status().with_context(where);
  stage.pattern = std::move(compiled).value();
  // Other behaviors join a slice with its neighbours, of which the parts may lack one.
  const bool keeps_matches = stage.behavior == Behavior::kIsolated && !stage.invert;
  const bool drops_the_rest = stage.behavior == Behavior::kRemoved && stage.invert;
  stage.cut = !keeps_matches && !drops_the_rest ? LineFeedCut::kUnproven
              : regex                           ? line_feed_cut(text)
                                                : line_feed_cut_of_literal(text);
  stages_.push_back(std::move(stage));
  return Status();
}

Status PreTokenizer::add_byte_level(const nlohmann::json& value, const std::string& where) {
  has_byte_level_ = true;
  bool use_regex = true;  // the field is newer than the first files
  Fields fields(value, where);
  fields.need("add_prefix_space", add_prefix_space_);
  fields("use_regex", use_regex);
  ENGRAM_RETURN_IF_ERROR(fields.status());
  if (use_regex) {
    byte_level_split_ = std::make_unique<Stage>();
    ENGRAM_ASSIGN_OR_RETURN(byte_level_split_->pattern, Pattern::compile(kByteLevelPattern));
  }
  return Status();
}

bool PreTokenizer::may_cut_behind_line_feeds() const {
  bool boundary = byte_level_split_ && !add_prefix_space_;  // kByteLevelPattern ends in \s+
  for (const Stage& stage : stages_) {
    if (stage.cut == LineFeedCut::kUnproven) return false;
    boundary = boundary || stage.cut == LineFeedCut::kBoundary;
  }
  return boundary;
}

Status PreTokenizer::split(std::string_view text, std::vector<std::string_view>& words,
                           std::deque<std::string>& storage) const {
  const bool later = has_later_code_point(text);
  std::vector<Span> spans;
  if (!text.empty()) spans.push_back({0, text.size()});
  for (const Stage& stage : stages_) ENGRAM_RETURN_IF_ERROR(stage.apply(text, later, spans));
  auto add_words = [&](std::string_view in, const std::vector<Span>& parts) {
    for (const Span& part : parts) words.push_back(in.substr(part.begin, part.end - part.begin));
  };
  if (!add_prefix_space_) {
    if (byte_level_split_) ENGRAM_RETURN_IF_ERROR(byte_level_split_->apply(text, later, spans));
    add_words(text, spans);
    return Status();
  }
  for (const Span& span : spans) {
    std::string_view piece = text.substr(span.begin, span.end - span.begin);
    if (piece.front() != ' ') piece = storage.emplace_back(1, ' ').append(piece);
    std::vector<Span> parts = {{0, piece.size()}};
    if (byte_level_split_) ENGRAM_RETURN_IF_ERROR(byte_level_split_->apply(piece, later, parts));
    add_words(piece, parts);
  }
  return Status();
}

}  // namespace engram
