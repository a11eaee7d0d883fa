// An exception on a worker thread of the loader or of `data prepare`, bad_alloc for one, ended the program in
// std::terminate.
//
// Right: an error that the caller gets.
#include <sys/resource.h>

#include "engram/core/checked_math.h"
#include "engram/core/exceptions.h"
#include "engram/data/data_loader.h"
#include "tests/data/data_test.h"

namespace engram {
namespace {

class Worker : public DataTest {
 protected:
  // In a process of its own whose address space grows by no more than 1 GiB from here.
  static void limit_memory() {
    std::ifstream sizes("/proc/self/statm");
    int64_t pages = 0;
    sizes >> pages;
    const auto bytes = static_cast<rlim_t>(pages * getpagesize() + (int64_t{1} << 30));
    const rlimit limit{bytes, bytes};
    setrlimit(RLIMIT_AS, &limit);
  }
};

TEST_F(Worker, LoaderGivesTheError) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers reserve address space themselves";
#endif
  const TokenShard shard = make_shard("a", {{1, 2, 3, 4}}, 10);
  for (const int threads : {0, 1, 2}) {
    const auto out_of_memory = [&] {
      limit_memory();
      DataLoaderOptions options;
      options.batch_size = 1 << 30;
      options.sequence_length = 1;
      options.threads = threads;
      const auto loader = value_or_throw(DataLoader::create({&shard}, {}, options));
      const Result<Batch> batch = loader->next();
      std::fprintf(stderr, "%s\n", batch.status().message().c_str());
      std::exit(batch.status().code() == StatusCode::kResourceExhausted ? 7 : 8);
    };
    EXPECT_EXIT(out_of_memory(), testing::ExitedWithCode(7),
                "batch 0 of 1073741824 sequences of 1 tokens: not enough memory");
  }
}

TEST_F(Worker, ExceptionsBecomeStatuses) {
  EXPECT_TRUE(catch_exceptions([] { return Status(); }).ok());
  EXPECT_EQ(catch_exceptions([]() -> Status { throw std::bad_alloc(); }).code(), StatusCode::kResourceExhausted);
  const Result<int> result = catch_exceptions([]() -> Result<int> { throw std::runtime_error("why"); });
  EXPECT_EQ(result.status().to_string(), "kInternal: why");
}

// `validation_batches * batch_size * length + 1` and other products of sizes wrapped.
TEST(SizesOfUsers, ProductsDoNotWrap) {
  static_assert(saturating_product({int64_t{1} << 40, 1 << 20, 1 << 20}) == INT64_MAX);
  static_assert(saturating_product({int64_t{1} << 40, 1 << 20, 0, 1 << 20}) == 0);
  static_assert(saturating_product({3, 4, 5}) == 60);
  static_assert(saturating_sum({INT64_MAX, 1}) == INT64_MAX);
  static_assert(saturating_sum({saturating_product({2, 3}), 1}) == 7);
}

}  // namespace
}  // namespace engram
