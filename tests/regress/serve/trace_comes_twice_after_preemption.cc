// A traced request that had to give its pages back told the traces of its first tokens again when they ran again.
// Right: one trace a token, in order.
#include <gtest/gtest.h>

#include <map>

#include "engram/serve/llm_engine.h"
#include "tests/model/tiny_checkpoint.h"

namespace engram {
namespace {

TEST(ServeEngineTraceRegress, ComesOnceAfterPreemption) {
  TemporaryFolder folder;
  const Tokenizer tokenizer = tiny_tokenizer();
  ModelConfig config = tiny_config(tokenizer);
  config.max_position_embeddings = 64;
  save_tiny(tiny_model(config), tokenizer, folder / "step");
  const LoadedModel model = value_or_throw(load_model(Env::posix(), folder / "step"));
  EngineOptions options;
  options.block_size = 4;
  options.kv_cache_bytes = PagedCache::bytes_per_token(config) * 4 * 17;  // for one at its longest
  options.scheduler = {.max_sequences = 2, .max_batched_tokens = 8};
  auto engine = value_or_throw(LLMEngine::create(Env::posix(), model, options));
  std::map<uint64_t, std::vector<int32_t>> tokens, traced;
  for (const uint64_t id : {1, 2}) {
    GenerationRequest request;
    request.prompt = std::vector<int32_t>(12, static_cast<int32_t>(60 + id));
    request.sampling.max_tokens = 40;
    request.sampling.temperature = 0;
    request.sampling.ignore_eos = true;
    request.trace = true;
    tokens[id] = request.prompt;
    engine->add(id, std::move(request), [&, id](const GenerationEvent& event) {
      if (event.token >= 0) tokens[id].push_back(event.token);
      for (const TokenTrace& trace : event.trace) traced[id].push_back(trace.token);
    });
  }
  while (engine->has_work()) engine->step();
  EXPECT_GT(engine->metrics().preemptions, 0u);
  for (auto& [id, wanted] : tokens) {
    wanted.pop_back();  // the last one never ran
    EXPECT_EQ(traced[id], wanted);
  }
}

}  // namespace
}  // namespace engram
