// Text generation by full recomputation: the readable reference that the serving engine must equal token for token.
//
// `engram generate` runs serve/generate_text.h, which reads every token once; its parts that are not the engine's are
// here: the prompt, the text as it comes, and how one goes on beyond the model's context.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engram/core/status.h"
#include "engram/model/decode/sampler.h"
#include "engram/model/io/checkpoint.h"
#include "engram/text/utf8_stream.h"

namespace engram {

struct GenerateOptions {
  int max_tokens = 128;
  SamplerOptions sampler;
  bool memory_off = false;  // knock the rows out: Engram blocks add nothing
  bool ignore_eos = false;  // go on to max_tokens
  Status validate() const;  // names the field, got, wanted
};

// Called with each completed piece of UTF-8 as it is decoded; returning false stops.
using OnText = std::function<bool(std::string_view)>;

// Returns all token ids generated, an ending eos included. Special tokens are ids only, never text. The context is the
// last max_position_embeddings tokens, read as a separate text: positions and n-grams begin there. An empty prompt
// means the bos token.
// kInvalidArgument: an empty prompt without a bos token, a prompt that is not UTF-8, options out of range.
Result<std::vector<int32_t>> generate(const LoadedModel& model, const std::string& prompt,
                                      const GenerateOptions& options, const OnText& on_text);

// The context in which generation begins: a prompt's last max_position_embeddings tokens.
Result<std::vector<int32_t>> prompt_context(const LoadedModel& model, const std::string& prompt);

// Generated tokens and their text as it comes.
class GeneratedText {
 public:
  // Both outlive it.
  GeneratedText(const LoadedModel& model, const OnText& on_text, bool ignore_eos)
      : model_(model), on_text_(on_text), ignore_eos_(ignore_eos) {}
  // False: the text ends with this token.
  bool push(int32_t token);
  const std::vector<int32_t>& tokens() const { return tokens_; }
  // Tells the rest, unless on_text has stopped the text.
  void finish();

 private:
  const LoadedModel& model_;
  const OnText& on_text_;
  const bool ignore_eos_;
  std::vector<int32_t> tokens_;
  Utf8Stream utf8_;
  bool stopped_ = false;
};

// Generates until the text ends or has options.max_tokens, each token from the whole context, which grows and slides.
void generate_by_recomputing(const LoadedModel& model, std::vector<int32_t> context, const GenerateOptions& options,
                             Sampler& sampler, GeneratedText& text);

}  // namespace engram
