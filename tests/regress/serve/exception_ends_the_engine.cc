// An exception on the engine's thread ended in std::terminate, and a page cache of 1 TiB was allocated until the
// process was killed. Right: what an exception touches ends with an error and others go on; where nothing can go on
// every client is told and the process can end in order; a cache is refused against the memory that there is.
#include <future>

#include "engram/serve/engine_thread.h"
#include "tests/model/tiny_checkpoint.h"

namespace engram {
namespace {

struct ServeEngineRegress : testing::Test {
  ServeEngineRegress() {
    const Tokenizer tokenizer = tiny_tokenizer();
    ModelConfig config = tiny_config(tokenizer);
    config.max_position_embeddings = 64;
    save_tiny(tiny_model(config), tiny_tokenizer(), folder / "model");
    model = value_or_throw(load_model(Env::posix(), folder / "model"));
  }
  std::unique_ptr<LLMEngine> engine() { return value_or_throw(LLMEngine::create(Env::posix(), model, {})); }
  static GenerationRequest request(int max_tokens) {
    GenerationRequest out;
    out.prompt = {1, 2, 3};
    out.sampling.max_tokens = max_tokens;
    out.sampling.temperature = 0;
    out.sampling.ignore_eos = true;
    return out;
  }
  TemporaryFolder folder;
  LoadedModel model;
};

TEST_F(ServeEngineRegress, AnExceptionOfOneClientEndsTheEngine) {
  EngineThread thread(engine());
  std::promise<FinishReason> ended;
  ASSERT_TRUE(thread.submit(request(8), [](const GenerationEvent&) { throw std::bad_alloc(); }).ok());
  ASSERT_TRUE(thread
                  .submit(request(8),
                          [&](const GenerationEvent& event) {
                            if (event.finish != FinishReason::kNone) ended.set_value(event.finish);
                          })
                  .ok());
  EXPECT_EQ(ended.get_future().get(), FinishReason::kLength);
  thread.drain();
  EXPECT_EQ(thread.metrics().failed, 1U);
  EXPECT_EQ(thread.metrics().kv_blocks_used, 0);
  EXPECT_TRUE(thread.failure().ok());
}

TEST_F(ServeEngineRegress, AnExceptionNobodyKnowsEndsTheProcess) {
  EngineThread thread(engine());
  std::promise<Status> told;
  ASSERT_TRUE(thread
                  .submit(request(32),
                          [&](const GenerationEvent& event) {
                            if (event.finish != FinishReason::kNone) told.set_value(event.error);
                          })
                  .ok());
  ASSERT_TRUE(thread
                  .submit(request(8),
                          [](const GenerationEvent& event) {
                            if (event.token >= 0) throw 42;  // stands for what the engine cannot go on behind
                          })
                  .ok());
  const Status status = told.get_future().get();
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_NE(status.message().find("the engine has stopped"), std::string::npos) << status.message();
  thread.drain();  // returns
  EXPECT_FALSE(thread.failure().ok());
  EXPECT_EQ(thread.submit(request(1), {}).status().code(), StatusCode::kUnavailable);
}

TEST_F(ServeEngineRegress, APageCacheOfAPebibyteIsAllocatedUntilTheProcessIsKilled) {
  EngineOptions options;
  options.kv_cache_bytes = int64_t{1} << 50;
  options.scheduler = {.max_sequences = int64_t{1} << 40, .max_batched_tokens = int64_t{1} << 40};
  const auto refused = LLMEngine::create(Env::posix(), model, options);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), StatusCode::kResourceExhausted);
  EXPECT_NE(refused.status().message().find("kv_cache_bytes: got 1125899906842624"), std::string::npos)
      << refused.status().message();
}

}  // namespace
}  // namespace engram
