#include "engram/serve/generate_text.h"

#include <algorithm>
#include <chrono>

#include "engram/serve/llm_engine.h"

namespace engram {
namespace {

GenerationRequest make_request(const std::vector<int32_t>& context, int64_t max_tokens,
                               const GenerateOptions& options) {
  GenerationRequest request;
  request.prompt = context;
  request.memory_off = options.memory_off;
  request.sampling.ignore_eos = options.ignore_eos;
  request.sampling.max_tokens = static_cast<int>(max_tokens);
  static_cast<SamplerOptions&>(request.sampling) = options.sampler;
  return request;
}

// Pages for one sequence of `length` tokens.
Result<std::unique_ptr<LLMEngine>> make_engine(Env& env, const LoadedModel& model, int64_t length) {
  EngineOptions options;
  options.prefix_cache = false;
  options.max_context = length;
  options.scheduler.max_sequences = 1;
  const torch::Dtype dtype = page_dtype(model.model->parameters().front());
  options.kv_cache_bytes = (length + options.block_size) * PagedCache::bytes_per_token(model.config, dtype);
  return LLMEngine::create(env, model, options);
}

GenerationTimes times_of(std::chrono::duration<double> first, std::chrono::duration<double> rest, int64_t tokens) {
  return {first.count(), rest.count() > 0 ? static_cast<double>(tokens - 1) / rest.count() : 0};
}

}  // namespace

Result<std::vector<int32_t>> generate_text(Env& env, const LoadedModel& model, const std::string& prompt,
                                           const GenerateOptions& options, const OnText& on_text,
                                           GenerationTimes* times) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  ENGRAM_RETURN_IF_ERROR(options.validate());
  ENGRAM_ASSIGN_OR_RETURN(std::vector<int32_t> context, prompt_context(model, prompt));
  GeneratedText text(model, on_text, options.ignore_eos);
  bool open = true;
  // The engine's part is what fits into the context.
  const int64_t length = std::ssize(context), window = model.config.max_position_embeddings;
  const int64_t fits = std::min<int64_t>(options.max_tokens, window - length);
  GenerationRequest request = make_request(context, fits, options);
  if (fits > 0 && request.sampling.validate().ok()) {  // not of an odd temperature, which servers refuse
    ENGRAM_ASSIGN_OR_RETURN(const std::unique_ptr<LLMEngine> engine, make_engine(env, model, length + fits));
    Status failure;
    Clock::time_point first = start, last = start;
    engine->add(0, std::move(request), [&](const GenerationEvent& event) {
      if (event.token >= 0 && open) {
        last = Clock::now();
        if (text.tokens().empty()) first = last;
        open = text.push(event.token);
      }
      if (event.finish == FinishReason::kError) failure = event.error;
    });
    while (engine->has_work() && open) engine->step();
    ENGRAM_RETURN_IF_ERROR(failure);
    if (times) *times = times_of(first - start, last - first, std::ssize(text.tokens()));
  }
  if (open && std::ssize(text.tokens()) < options.max_tokens) {
    context.insert(context.end(), text.tokens().begin(), text.tokens().end());
    Sampler sampler(options.sampler);
    sampler.skip(text.tokens().size());
    generate_by_recomputing(model, std::move(context), options, sampler, text);
  }
  text.finish();
  return text.tokens();
}

}  // namespace engram
