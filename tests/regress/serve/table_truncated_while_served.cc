// A table that was cut while it was served from the mapped tier ended the server (SIGBUS). Right: requests whose rows
// are gone fail with file and page, the engine says that it is in trouble, and requests that need no rows go on.
#include <filesystem>

#include "engram/serve/llm_engine.h"
#include "engram/store/import/table_tools.h"
#include "tests/model/tiny_checkpoint.h"

namespace engram {
namespace {

struct ServeTableRegress : testing::Test {
  ServeTableRegress() {
    const Tokenizer tokenizer = tiny_tokenizer();
    save_tiny(tiny_model(tiny_config(tokenizer)), tiny_tokenizer(), folder / "model");
    model = value_or_throw(load_model(Env::posix(), folder / "model"));
    const auto source = value_or_throw(open_table_source(Env::posix(), model.directory));
    const RowFileInfo info = value_or_throw(plan_convert(*source, RowType::kFP32));
    throw_if_error(convert_table(Env::posix(), *source, file, info, /*resume=*/false, nullptr));
  }
  // The last event of a request for one token.
  GenerationEvent ask(LLMEngine& engine, bool memory_off) {
    GenerationRequest request;
    request.prompt = {5, 6, 7, 8, 9};
    request.sampling.max_tokens = 1;
    request.sampling.temperature = 0;
    request.memory_off = memory_off;
    GenerationEvent last;
    engine.add(++id, std::move(request), [&last](const GenerationEvent& event) { last = event; });
    while (engine.has_work()) engine.step();
    return last;
  }
  TemporaryFolder folder;
  const std::string file = folder / "t.rows";
  LoadedModel model;
  uint64_t id = 0;
};

TEST_F(ServeTableRegress, ATableIsTruncatedWhileItIsServed) {
  EngineOptions options;
  options.tables = {"mapped:" + file};
  options.prefix_cache = false;
  auto engine = value_or_throw(LLMEngine::create(Env::posix(), model, options));
  EXPECT_EQ(ask(*engine, false).finish, FinishReason::kLength);
  std::filesystem::resize_file(file, 8192);
  const GenerationEvent failed = ask(*engine, false);
  EXPECT_EQ(failed.finish, FinishReason::kError);
  EXPECT_EQ(failed.error.code(), StatusCode::kDataLoss);
  EXPECT_NE(failed.error.message().find("t.rows: page "), std::string::npos) << failed.error.message();
  EXPECT_EQ(engine->health().code(), StatusCode::kDataLoss);
  EXPECT_EQ(ask(*engine, true).finish, FinishReason::kLength) << "others go on";
}

}  // namespace
}  // namespace engram
