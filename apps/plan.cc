// engram plan: what a table costs on this much memory and this drive, from a sample of the text it will serve.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "apps/commands.h"
#include "engram/core/file_kind.h"
#include "engram/core/json.h"
#include "engram/core/progress.h"
#include "engram/data/documents.h"
#include "engram/data/token_shard.h"
#include "engram/store/plan/planner.h"
#include "engram/text/tokenizer.h"

namespace engram::apps {
namespace {

constexpr std::string_view kShardMagic = "ENGRTOKS";  // docs/formats/token_shard.md

struct PlanFlags {
  PlanOptions options;
  std::string corpus, tokenizer, plot;
  uint64_t ram = 0;
  int64_t sample_tokens = 500'000;
  bool json = false;
};

struct Sample {
  std::vector<int32_t> tokens;
  std::vector<int64_t> starts;
};

// Which documents: all of them, or every k-th, so that the sample is spread over the corpus.
int64_t document_stride(int64_t total, int64_t wanted) {
  return std::max<int64_t>(1, total / std::max<int64_t>(1, wanted));
}

Result<Sample> sample_shard(const std::string& path, int64_t wanted, std::string* vocabulary_digest) {
  ENGRAM_ASSIGN_OR_RETURN(const TokenShard shard, TokenShard::open(Env::posix(), path));
  *vocabulary_digest = shard.info().vocabulary_digest;
  const auto starts = shard.document_starts();
  const int64_t stride = document_stride(shard.info().num_tokens, wanted);
  Sample sample;
  for (size_t i = 0; i < starts.size() && static_cast<int64_t>(sample.tokens.size()) < wanted;
       i += static_cast<size_t>(stride)) {
    const int64_t end = i + 1 < starts.size() ? starts[i + 1] : shard.info().num_tokens;
    const int64_t count = std::min(end - starts[i], wanted - static_cast<int64_t>(sample.tokens.size()));
    const size_t at = sample.tokens.size();
    sample.starts.push_back(static_cast<int64_t>(at));
    sample.tokens.resize(at + static_cast<size_t>(count));
    shard.copy_tokens(starts[i], std::span(sample.tokens).subspan(at));
  }
  return sample;
}

Result<Sample> sample_text(const std::string& path, const Tokenizer& tokenizer, int64_t wanted) {
  constexpr size_t kPieceBytes = 1 << 16;
  constexpr int64_t kBytesPerToken = 4;  // a guess that only spreads the sample
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, read_text_file(Env::posix(), path));
  const int64_t stride = document_stride(static_cast<int64_t>(text.size()) / kBytesPerToken, wanted);
  const std::vector<std::string_view> documents = split_documents(text, "auto");
  const TextCuts cuts(tokenizer);
  Sample sample;
  for (size_t i = 0; i<documents.size(); i += documents.size()> 1 ? static_cast<size_t>(stride) : 1) {
    sample.starts.push_back(static_cast<int64_t>(sample.tokens.size()));
    for (const std::string_view piece : split_pieces(documents[i], kPieceBytes, cuts)) {
      if (static_cast<int64_t>(sample.tokens.size()) >= wanted) break;
      Result<std::vector<int32_t>> ids = tokenizer.encode(piece);
      if (!ids.ok()) return ids.status().with_context(path);
      sample.tokens.insert(sample.tokens.end(), ids->begin(), ids->end());
    }
    if (static_cast<int64_t>(sample.tokens.size()) >= wanted) break;
  }
  sample.tokens.resize(std::min(sample.tokens.size(), static_cast<size_t>(wanted)));
  while (!sample.starts.empty() && sample.starts.back() >= static_cast<int64_t>(sample.tokens.size()))
    sample.starts.pop_back();
  return sample;
}

// The map that the table was made with: of raw ids that are their own canonical ids, or the tokenizer's.
Result<TokenMap> find_map(const RowFileInfo& info, const std::optional<Tokenizer>& tokenizer) {
  if (!info.hash)
    return make_status(StatusCode::kFailedPrecondition, "the row file does not say how its rows are hashed");
  const TokenMap identity = TokenMap::identity(info.hash->config.compressed_vocab_size);
  if (info.check_token_map(identity).ok()) return identity;
  if (!tokenizer) return invalid_argument("the table belongs to a tokenizer: name it with --tokenizer");
  return TokenMap::from_tokenizer(*tokenizer);
}

Result<bool> is_shard(const std::string& path) {
  ENGRAM_ASSIGN_OR_RETURN(const auto file, Env::posix().new_random_access_file(path));
  std::string magic(8, '\0');
  ENGRAM_ASSIGN_OR_RETURN(const size_t got, file->read_at(0, std::as_writable_bytes(std::span(magic))));
  return got == magic.size() && magic == kShardMagic;
}

Result<Sample> read_sample(const PlanFlags& flags, const std::optional<Tokenizer>& tokenizer) {
  ENGRAM_ASSIGN_OR_RETURN(const bool shard, is_shard(flags.corpus));
  if (!shard) {
    if (!tokenizer) return invalid_argument("{}: text needs --tokenizer", flags.corpus);
    return sample_text(flags.corpus, *tokenizer, flags.sample_tokens);
  }
  std::string digest;
  ENGRAM_ASSIGN_OR_RETURN(Sample sample, sample_shard(flags.corpus, flags.sample_tokens, &digest));
  if (tokenizer && tokenizer->vocabulary_digest() != digest)
    return invalid_argument("{}: made with vocabulary {}, the tokenizer has {}", flags.corpus, digest,
                            tokenizer->vocabulary_digest());
  return sample;
}

Status run_plan(PlanFlags flags) {
  Env& env = Env::posix();
  PlanOptions& options = flags.options;
  options.ram_bytes = static_cast<int64_t>(std::min<uint64_t>(flags.ram, INT64_MAX));
  if (options.ram_bytes < kRowPageBytes)
    return invalid_argument("--ram: {} bytes do not hold one page of {}", options.ram_bytes, kRowPageBytes);
  ENGRAM_ASSIGN_OR_RETURN(const RowFileReader table, RowFileReader::open(env, options.table));
  std::optional<Tokenizer> tokenizer;
  if (!flags.tokenizer.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(tokenizer, Tokenizer::load(env, flags.tokenizer));
  }
  ENGRAM_ASSIGN_OR_RETURN(const TokenMap map, find_map(table.info(), tokenizer));
  ENGRAM_ASSIGN_OR_RETURN(const Sample sample, read_sample(flags, tokenizer));
  CorpusProfile profile;
  {
    Progress progress("profile", static_cast<int64_t>(sample.tokens.size()), "tokens");
    ENGRAM_ASSIGN_OR_RETURN(profile, profile_corpus(table.info(), map, sample.tokens, sample.starts,
                                                    plan_cache_sizes(table.info(), options.ram_bytes), &progress));
  }
  const Plan plan = make_plan(table.info(), profile, options);
  if (!options.profile.empty()) ENGRAM_RETURN_IF_ERROR(profile.rows.save(env, options.profile));
  if (!flags.plot.empty()) ENGRAM_RETURN_IF_ERROR(write_file_atomic(env, flags.plot, plan_svg(profile, plan)));
  if (flags.json) {
    fmt::print("{}\n", plan_json(profile, plan).dump());
  } else {
    fmt::print("{}", plan_text(profile, plan, options));
  }
  return {};
}

}  // namespace

void add_plan(CLI::App& app, Invocation& invocation) {
  auto flags = std::make_shared<PlanFlags>();
  CLI::App* command = app.add_subcommand("plan", "Say what a table costs: memory, reads, speed, and how to open it");
  command->footer(
      "Example:\n"
      "  engram plan --table t.rows --corpus text.txt --tokenizer tokenizer.json --ram 2GiB --drive-iops 500000");
  command->add_option("--table", flags->options.table, "Row file")->required();
  command->add_option("--corpus", flags->corpus, "Text as it will be served, or a token shard")->required();
  command->add_option("--ram", flags->ram, "Memory for the table, e.g. 2GiB")
      ->transform(CLI::AsSizeValue(true))
      ->required();
  command->add_option("--tokenizer", flags->tokenizer, "tokenizer.json, for text and for a table that belongs to one");
  command->add_option("--drive-iops", flags->options.drive_iops, "4 KiB random reads a second that the drive makes")
      ->check(CLI::PositiveNumber);
  command->add_option("--tokens-per-second", flags->options.tokens_per_second, "The speed that is wanted")
      ->check(CLI::PositiveNumber);
  command->add_option("--sample-tokens", flags->sample_tokens, "Tokens to look at")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 30))
      ->capture_default_str();
  command->add_option("--profile", flags->options.profile, "Write the rows by frequency, to open with hot=FILE");
  command->add_option("--plot", flags->plot, "Write hit rates over cache size as SVG");
  command->add_flag("--json", flags->json, "Print JSON");
  command->callback([flags, &invocation] { invocation.run = [flags] { return run_plan(*flags); }; });
}

}  // namespace engram::apps
