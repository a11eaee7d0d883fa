// The `engram` program itself: `hash` against the golden boundary vectors, exit codes, one-line errors; `bench hash`
// without its numpy side.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>

#include "engram/core/json.h"
#include "engram/text/tokenizer.h"

namespace engram {
namespace {

using nlohmann::json;

struct Output {
  int code = -1;
  std::string out, err;
};

// Runs "engram ARGUMENTS" through the shell.
Output run(const std::string& arguments) {
  const std::string errors = ::testing::TempDir() + "engram_hash_command_stderr_" + std::to_string(::getpid());
  Output output;
  std::FILE* pipe = ::popen((ENGRAM_PROGRAM " " + arguments + " 2>" + errors).c_str(), "r");
  char buffer[4096];
  for (size_t got; (got = std::fread(buffer, 1, sizeof(buffer), pipe)) > 0;) output.out.append(buffer, got);
  const int status = ::pclose(pipe);
  output.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  output.err = value_or_throw(Env::posix().read_file(errors));
  std::remove(errors.c_str());
  return output;
}

std::string list(const json& values, char separator) {
  std::string text;
  for (const json& value : values) {
    if (!text.empty()) text += separator;
    text += value.dump();
  }
  return text;
}

TEST(HashCommand, JsonEqualsTheGoldenVectors) {
  const json items =
      value_or_throw(read_json_file(Env::posix(), ENGRAM_SOURCE_DIR "/tests/golden/hash_boundary_vectors.json"));
  for (const json& item : items) {
    for (const json& sequence : item.at("sequences")) {
      const std::string arguments = fmt::format(
          "hash --canonical --compressed-vocab-size {} --layer-ids {} --max-ngram-size {} --n-heads {} --vocab-size {} "
          "--seed {} --pad-id {} --ids '{}' --starts '{}' --json",
          item.at("compressed_vocab_size").dump(), list(item.at("layer_ids"), ','), item.at("max_ngram_size").dump(),
          item.at("n_heads").dump(), list(item.at("vocab_size_per_ngram"), ','), item.at("seed").dump(),
          item.at("compressed_pad_id").dump(), list(sequence.at("token_ids"), ' '), list(sequence.at("starts"), ' '));
      const Output output = run(arguments);
      ASSERT_EQ(output.code, 0) << output.err;
      const json wanted = {{"compressed_vocab_size", item.at("compressed_vocab_size")},
                           {"multipliers", item.at("multipliers")},
                           {"primes", item.at("primes")},
                           {"row_ids", sequence.at("row_ids")}};
      EXPECT_EQ(json::parse(output.out), wanted);
      EXPECT_EQ(output.err, "");
    }
  }
}

TEST(HashCommand, JsonEqualsTheVectorsOfTheOtherDialects) {
  const json items =
      value_or_throw(read_json_file(Env::posix(), ENGRAM_SOURCE_DIR "/tests/golden/dialect_vectors.json"));
  for (const json& item : items) {
    const bool is_qwen = item.at("rule") == "qwen4exp";
    const std::string shape =
        is_qwen
            ? fmt::format("--vocab-size {} --max-ngram-size {} --n-heads {} --ple-layers {} --seed {}",
                          item.at("ngram_vocab_size_base").dump(), item.at("ngram_size").dump(),
                          item.at("heads_per_ngram").dump(), item.at("ple_layers").dump(), item.at("seed").dump())
            : fmt::format("--vocab-size-ratio {} --max-ngram-size {} --n-heads {}", item.at("vocab_size_ratio").dump(),
                          item.at("neighbor_num").dump(), item.at("split_num").dump());
    for (const json& sequence : item.at("sequences")) {
      const Output output = run(fmt::format(
          "hash --rule {} --unigram-vocab-size {} --eos-id {} {} --ids '{}' --json", item.at("rule").get<std::string>(),
          item.at("vocab_size").dump(), item.at("eos_token_id").dump(), shape, list(sequence.at("token_ids"), ' ')));
      ASSERT_EQ(output.code, 0) << output.err;
      json wanted = {{"rule", item.at("rule")}, {"row_ids", json::object()}};
      wanted["head_sizes"] = is_qwen ? item.at("head_sizes") : json::array({item.at("table_rows")});
      for (size_t layer = 0; layer < sequence.at("row_ids").size(); ++layer)
        wanted["row_ids"][std::to_string(layer)] = sequence.at("row_ids")[layer];
      ASSERT_EQ(json::parse(output.out), wanted);
    }
  }
}

// A tokenizer of 256 bytes and two special tokens: ids that normalise alike ("A", "a") hash alike.
TEST(HashCommand, ATokenizerCompressesTheIds) {
  const std::string path = ::testing::TempDir() + "engram_hash_command_tokenizer_" + std::to_string(::getpid());
  throw_if_error(write_file_atomic(Env::posix(), path, Tokenizer::byte_level_json({"<s>", "</s>"})));
  Tokenizer tokenizer = value_or_throw(Tokenizer::load(Env::posix(), path));
  const std::string ids = fmt::format("{} {}", tokenizer.token_id("A"), tokenizer.token_id("a"));
  const Output output = run("hash --tokenizer " + path +
                            " --layer-ids 1 --vocab-size 1000,1000 --pad-id 0 --starts '0 1' "
                            "--json --ids '" +
                            ids + "'");
  std::remove(path.c_str());
  ASSERT_EQ(output.code, 0) << output.err;
  const json result = json::parse(output.out);
  EXPECT_LT(result.at("compressed_vocab_size"), tokenizer.vocab_size());
  EXPECT_EQ(result.at("row_ids").at("1")[0], result.at("row_ids").at("1")[1]);
}

TEST(HashCommand, TextNamesLayersAndTokens) {
  const Output output =
      run("hash --canonical --compressed-vocab-size 10 --layer-ids 3 --n-heads 1 --vocab-size 5,7 --ids 4");
  EXPECT_EQ(output.code, 0) << output.err;
  EXPECT_NE(output.out.find("layer 3: 12 rows"), std::string::npos) << output.out;
  EXPECT_NE(output.out.find("primes of order 3: 7"), std::string::npos) << output.out;
  EXPECT_NE(output.out.find("token 0 (id 4):"), std::string::npos) << output.out;
}

TEST(HashCommand, BadInputIsOneErrorLine) {
  const std::string base = "hash --canonical --compressed-vocab-size 100 --layer-ids 1 --vocab-size 1000,1000 ";
  for (const auto& [arguments, message] : std::vector<std::pair<std::string, std::string>>{
           {base + "--ids '1 100'", "error: token 1: got id 100, wanted -1 (masked) .. 99\n"},
           {base + "--ids '1 x2'", "error: --ids: got 'x2', wanted integers of 32 bits between blanks\n"},
           {base + "--ids 1 --starts 1", "error: starts: got 1 at place 0, wanted ascending indices of the 1 tokens\n"},
           {base + "--ids 1 --pad-id 100", "error: --pad-id: got 100, wanted 0 .. 99\n"},
           {base + "--ids 1 --max-ngram-size 4",
            "error: vocab_size: got 2 sizes, wanted 3: one for each order 2 .. max_ngram_size = 4\n"},
           {"hash --rule longcat --unigram-vocab-size 100 --vocab-size-ratio 2 --eos-id 100 --ids 1",
            "error: eos_token_id: got 100, wanted 0 .. 99\n"},
           {"hash --rule longcat --unigram-vocab-size 100 --vocab-size-ratio 1e300 --eos-id 2 --ids 1",
            "error: vocab_size_ratio: got 1e+300, wanted above 0, with heads of at most 274877906944 rows\n"},
           {"hash --rule qwen4exp --unigram-vocab-size 100 --vocab-size 9223372036854775807 --eos-id 2 --ids 1",
            "error: vocab_size: got 9223372036854775807, wanted 1 .. 274877906944\n"},
           {"hash --rule qwen4exp --unigram-vocab-size 100 --vocab-size 50 --eos-id 2 --ids '1 100'",
            "error: token 1: got id 100, wanted -1 (masked) .. 99\n"},
           {"hash --tokenizer /no/file --layer-ids 1 --vocab-size 9,9 --ids 1",
            "error: cannot open '/no/file': No such file or directory\n"},
           {"bench hash --python /no/python",
            "error: numpy side: no Python at '/no/python'; run scripts/setup.sh --oracles, or pass --python\n"}}) {
    const Output output = run(arguments);
    EXPECT_EQ(output.code, 1) << arguments;
    EXPECT_EQ(output.err, message);
    EXPECT_EQ(output.out, "");
  }
}

TEST(HashCommand, WrongUsageIsTwo) {
  EXPECT_EQ(run("hash").code, 2);
  EXPECT_EQ(run("hash --layer-ids 1 --vocab-size 9,9 --ids 1").code, 2);
  EXPECT_EQ(run("hash --canonical --layer-ids 1 --vocab-size 9,9 --ids 1").code, 2);
  EXPECT_EQ(run("hash --no-such-flag").code, 2);
  EXPECT_EQ(run("hash --rule qwen --unigram-vocab-size 9 --vocab-size 9 --eos-id 2 --ids 1").code, 2);
  EXPECT_EQ(run("hash --rule qwen4exp --unigram-vocab-size 9 --vocab-size 9 --ids 1").code, 2);
  EXPECT_EQ(run("hash --rule longcat --unigram-vocab-size 9 --vocab-size-ratio 2 --eos-id 2 --seed 1 --ids 1").code, 2);
  EXPECT_EQ(run("bench").code, 2);
  EXPECT_EQ(run("hash --help").code, 0);
}

}  // namespace
}  // namespace engram
