// Two writers of one output (train, demo, lab, data prepare, table convert) wrote into each other's temporary files,
// and what they left was whole for neither.
//
// Right: the second says who holds the output and changes nothing; a holder that is killed holds nothing.
#include "engram/core/output_lock.h"

#include <signal.h>
#include <sys/wait.h>

#include <thread>

#include "engram/data/prepare.h"
#include "tests/data/data_test.h"

namespace engram {
namespace {

class TwoWriters : public DataTest {
 protected:
  // A child that takes the lock of `folder`, says so and sleeps.
  static pid_t holder(const std::string& folder, bool with_child = false) {
    int ready[2];
    EXPECT_EQ(pipe(ready), 0);
    const pid_t child = fork();
    if (child == 0) {
      const OutputLock lock =
          value_or_throw(OutputLock::folder(Env::posix(), folder, {.patience = {}, .children_share = with_child}));
      if (with_child && fork() == 0) {
        std::this_thread::sleep_for(std::chrono::milliseconds(300));
        _exit(0);
      }
      (void)!write_byte(ready[1]);
      while (true) pause();
    }
    char byte = 0;
    EXPECT_EQ(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
    return child;
  }
  static ssize_t write_byte(int file) { return ::write(file, "x", 1); }
  static void kill_hard(pid_t child) {
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
  }
};

TEST_F(TwoWriters, TheSecondPrepareNamesTheFirstAndChangesNothing) {
  write("a.txt", "some text\n<|endoftext|>\nmore text");
  const Tokenizer tokenizer = value_or_throw(Tokenizer::parse(Tokenizer::byte_level_json({"<|endoftext|>"}), "bytes"));
  PrepareOptions options;
  options.files = {path("a.txt")};
  options.output_directory = path("out");
  (void)value_or_throw(prepare_shards(Env::posix(), tokenizer, options));
  const std::string before = contents_of("out/train.tokens");
  const pid_t first = holder(path("out"));
  write("a.txt", "other text\n<|endoftext|>\nand more");
  const Status second = prepare_shards(Env::posix(), tokenizer, options).status();
  EXPECT_EQ(second.code(), StatusCode::kFailedPrecondition);
  EXPECT_TRUE(second.message().starts_with(fmt::format("{}: in use by process {} on ", path("out"), first)))
      << second.message();
  EXPECT_NE(second.message().find("regress_data_test"), std::string::npos) << second.message();  // its command
  EXPECT_EQ(contents_of("out/train.tokens"), before);
  kill_hard(first);
  (void)value_or_throw(prepare_shards(Env::posix(), tokenizer, options));
  EXPECT_NE(contents_of("out/train.tokens"), before);
  EXPECT_EQ(value_or_throw(Env::posix().list_directory(path("out"))),
            (std::vector<std::string>{"prepare.json", "train.tokens", "validation.tokens"}));
}

TEST_F(TwoWriters, ChildrenOfAKilledHolderAreWaitedFor) {
  const pid_t first = holder(path("out"), /*with_child=*/true);
  EXPECT_FALSE(OutputLock::folder(Env::posix(), path("out"), {.patience = std::chrono::seconds(20)}).ok());  // at once
  kill_hard(first);
  const Status at_once = OutputLock::folder(Env::posix(), path("out"), {}).status();
  EXPECT_NE(at_once.message().find("in use by the children of ended process"), std::string::npos) << at_once.message();
  EXPECT_TRUE(OutputLock::folder(Env::posix(), path("out"), {.patience = std::chrono::seconds(20)}).ok());
}

TEST_F(TwoWriters, ALockLeavesNothingBehind) {
  {
    const OutputLock lock = value_or_throw(OutputLock::folder(Env::posix(), path("a/b/c"), {}));
    EXPECT_FALSE(OutputLock::folder(Env::posix(), path("a/b/c"), {}).ok());  // within one process, too
    const OutputLock file = value_or_throw(OutputLock::file(Env::posix(), path("t.rows")));
    EXPECT_FALSE(OutputLock::file(Env::posix(), path("t.rows")).ok());
  }
  EXPECT_EQ(files(), std::vector<std::string>());
  {
    const OutputLock lock = value_or_throw(OutputLock::folder(Env::posix(), path("a/b"), {}));
    write("a/b/kept", "x");
  }
  EXPECT_EQ(contents_of("a/b/kept"), "x");
  // A link at the lock's name is not followed.
  write("precious", "x");
  std::filesystem::create_symlink(path("precious"), path("a/b/.lock"));
  EXPECT_FALSE(OutputLock::folder(Env::posix(), path("a/b"), {}).ok());
  EXPECT_EQ(contents_of("precious"), "x");
}

TEST_F(TwoWriters, HoldersThatTakeTurnsNeverMeet) {
  const auto take_turns = [&] {
    for (int i = 0; i < 50;) {
      const Result<OutputLock> lock = OutputLock::folder(Env::posix(), path("x/y"), {});
      if (!lock.ok()) continue;
      std::FILE* alone = std::fopen(path("x/y/alone").c_str(), "wx");
      if (alone == nullptr) _exit(1);
      std::fclose(alone);
      std::filesystem::remove(path("x/y/alone"));
      ++i;
    }
  };
  std::vector<pid_t> children;
  for (int i = 0; i < 3; ++i) {
    children.push_back(fork());
    if (children.back() == 0) {
      take_turns();
      _exit(0);
    }
  }
  for (const pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
}

}  // namespace
}  // namespace engram
