// engram table create | convert | inspect | verify | lookup: tables on disk, ours and other people's.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "apps/commands.h"
#include "apps/integers.h"
#include "engram/core/output_lock.h"
#include "engram/core/progress.h"
#include "engram/store/import/table_source.h"
#include "engram/store/import/table_tools.h"
#include "engram/text/tokenizer.h"

namespace engram::apps {
namespace {

// V4.1's vocabulary, for a synthetic table that belongs to no tokenizer.
constexpr int kSyntheticVocabulary = 129280;

struct CreateFlags {
  std::string file, tokenizer, dtype = "fp8";
  uint64_t size = 0, seed = 0;
  SyntheticOptions options;
  bool synthetic = false, resume = false, force = false;
};

struct ConvertFlags {
  std::string source, destination, dtype, tokenizer;
  bool resume = false, force = false;
};

struct ReadFlags {
  std::string path, tokenizer, ids;
  int layer = 0;
  bool json = false;
};

Status check_destination(const std::string& path, bool force) {
  if (force || !Env::posix().file_exists(path)) return {};
  return make_status(StatusCode::kAlreadyExists, "{}: already exists; --force replaces it", path);
}

std::string describe(const EngramConfig& config) {
  const std::string shape = fmt::format("rule {}, layers {}, orders 2..{}, {} heads", hash_rule_name(config.rule),
                                        fmt::join(config.layer_ids, ","), config.max_ngram_size, config.n_heads);
  if (config.rule == HashRule::kLongcat)
    return fmt::format("{}, {} rows per id, {} ids, eos {}", shape, config.vocab_size_ratio,
                       config.compressed_vocab_size, config.pad_token_id);
  const std::string search = fmt::format("{}, prime search from {}", shape, fmt::join(config.vocab_size, ","));
  return config.rule == HashRule::kEngram
             ? fmt::format("{}, compressed vocabulary {}, seed {}", search, config.compressed_vocab_size, config.seed)
             : fmt::format("{}, {} ids, seed {}, eos {}", search, config.compressed_vocab_size, config.seed,
                           config.pad_token_id);
}

void print_written(const std::string& path, const RowFileInfo& info) {
  for (const RowTable& table : info.tables)
    fmt::print("layer {}: {} rows, {}\n", table.layer_id, table.num_rows, table.format.to_string());
  fmt::print("{}: {} bytes in {} pages\n", path, info.file_bytes(), info.num_pages);
}

Status run_create(const CreateFlags& flags) {
  Env& env = Env::posix();
  ENGRAM_ASSIGN_OR_RETURN(const OutputLock lock, OutputLock::file(env, flags.file));
  ENGRAM_RETURN_IF_ERROR(check_destination(flags.file, flags.force));
  SyntheticOptions options = flags.options;
  ENGRAM_ASSIGN_OR_RETURN(options.type, parse_row_type(flags.dtype));
  TokenMap map = TokenMap::identity(kSyntheticVocabulary);
  if (!flags.tokenizer.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::load(env, flags.tokenizer));
    ENGRAM_ASSIGN_OR_RETURN(map, TokenMap::from_tokenizer(tokenizer));
  }
  const auto size = static_cast<int64_t>(std::min<uint64_t>(flags.size, INT64_MAX));
  ENGRAM_ASSIGN_OR_RETURN(const RowFileInfo info, plan_synthetic(options, size, map));
  {
    Progress progress("create", count_row_bytes(info), "B");
    ENGRAM_RETURN_IF_ERROR(write_synthetic(env, flags.file, info, flags.seed, flags.resume, &progress));
  }
  print_written(flags.file, info);
  return {};
}

Status run_convert(const ConvertFlags& flags) {
  Env& env = Env::posix();
  ENGRAM_ASSIGN_OR_RETURN(const OutputLock lock, OutputLock::file(env, flags.destination));
  ENGRAM_RETURN_IF_ERROR(check_destination(flags.destination, flags.force));
  std::optional<RowType> type;
  if (!flags.dtype.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(type, parse_row_type(flags.dtype));
  }
  ENGRAM_ASSIGN_OR_RETURN(const auto source, open_table_source(env, flags.source, flags.tokenizer));
  ENGRAM_ASSIGN_OR_RETURN(const RowFileInfo info, plan_convert(*source, type));
  {
    Progress progress("convert", count_row_bytes(info), "B");
    ENGRAM_RETURN_IF_ERROR(convert_table(env, *source, flags.destination, info, flags.resume, &progress));
  }
  fmt::print("{}: {}\n", source->kind(), source->path());
  print_written(flags.destination, info);
  if (!source->hash()) fmt::print("note: {}\n", source->hash_note());
  return {};
}

Status run_inspect(const ReadFlags& flags) {
  ENGRAM_ASSIGN_OR_RETURN(const auto source, open_table_source(Env::posix(), flags.path, flags.tokenizer));
  nlohmann::ordered_json json = {{"kind", source->kind()},
                                 {"layers", nlohmann::ordered_json::array()},
                                 {"row_bytes_total", count_row_bytes(*source)},
                                 {"hash", nullptr}};
  for (const SourceTable& table : source->tables())
    json["layers"].push_back({{"layer", table.layer_id},
                              {"rows", table.num_rows},
                              {"row_dim", table.format.width},
                              {"dtype", row_type_name(table.format.type)},
                              {"block", table.format.block},
                              {"row_bytes", table.format.row_bytes()},
                              {"encoding", table.encoding}});
  if (source->hash()) {
    json["hash"] = source->hash()->to_json();
    json["hash"].erase("compressed_pad_id");  // follows from the tokenizer
  }
  if (flags.json) {
    fmt::print("{}\n", json.dump());
    return {};
  }
  fmt::print("{}: {}\n", source->path(), source->kind());
  for (const SourceTable& table : source->tables())
    fmt::print("layer {}: {} rows of {} bytes ({}), stored as {}\n", table.layer_id, table.num_rows,
               table.format.row_bytes(), table.format.to_string(), table.encoding);
  fmt::print("rows: {} bytes in all\n", count_row_bytes(*source));
  if (source->hash()) {
    fmt::print("hash: {}\ntoken map SHA-256: {}\n", describe(source->hash()->config), source->hash()->token_map_sha256);
  } else {
    fmt::print("hash: none ({})\n", source->hash_note());
  }
  return {};
}

Status run_verify(const ReadFlags& flags) {
  Env& env = Env::posix();
  ENGRAM_ASSIGN_OR_RETURN(const auto source, open_table_source(env, flags.path, flags.tokenizer));
  int64_t bytes = count_row_bytes(*source);
  const bool has_checksums = source->kind() == "row file";
  if (has_checksums) {
    ENGRAM_ASSIGN_OR_RETURN(bytes, env.file_size(flags.path));
    VerifyReport report;
    {
      Progress progress("verify", bytes, "B");
      ENGRAM_ASSIGN_OR_RETURN(report, verify_row_file(env, flags.path, &progress));
    }
    if (report.damaged_pages > 0)
      return data_loss("{} damaged page{}; the first: {}", report.damaged_pages, report.damaged_pages == 1 ? "" : "s",
                       report.first_damage);
  } else {
    Progress progress("verify", bytes, "B");
    ENGRAM_RETURN_IF_ERROR(verify_values(*source, &progress));
  }
  if (flags.json) {
    const nlohmann::ordered_json json = {
        {"kind", source->kind()}, {"bytes", bytes}, {"checksums", has_checksums}, {"ok", true}};
    fmt::print("{}\n", json.dump());
  } else {
    fmt::print("{}: {} bytes, {}\n", flags.path, bytes,
               has_checksums ? "every page is what its checksum says"
                             : "every row can be read and is finite (the format has no checksums)");
  }
  return {};
}

Status run_lookup(const ReadFlags& flags) {
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<int64_t> ids, parse_integers<int64_t>("--ids", flags.ids));
  ENGRAM_ASSIGN_OR_RETURN(const auto source, open_table_source(Env::posix(), flags.path, flags.tokenizer));
  ENGRAM_ASSIGN_OR_RETURN(const int table, source->find_layer(flags.layer));
  const auto width = static_cast<size_t>(source->tables()[static_cast<size_t>(table)].format.width);
  std::vector<float> values(ids.size() * width);
  ENGRAM_RETURN_IF_ERROR(source->read_values(table, ids, values));
  nlohmann::ordered_json json = {{"layer", flags.layer}, {"row_dim", width}, {"rows", nlohmann::ordered_json::array()}};
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto row = std::span(values).subspan(i * width, width);
    if (flags.json) {
      json["rows"].push_back(std::vector<float>(row.begin(), row.end()));
    } else {
      fmt::print("{}: {}\n", ids[i], fmt::join(row, " "));
    }
  }
  if (flags.json) fmt::print("{}\n", json.dump());
  return {};
}

void add_create(CLI::App& table, Invocation& invocation) {
  auto flags = std::make_shared<CreateFlags>();
  EngramConfig& config = flags->options.config;
  CLI::App* command =
      table.add_subcommand("create", "Write a row file of random rows, DeepSeek-V4.1's shape by default");
  command->footer(
      "Example:\n"
      "  engram table create t.rows --synthetic --size 64MiB");
  command->add_flag("--synthetic", flags->synthetic, "Random rows (the only kind so far; a model's come from convert)")
      ->required();
  command->add_option("--size", flags->size, "Size of the file, e.g. 64MiB or 8GiB")
      ->transform(CLI::AsSizeValue(true))
      ->required();
  command->add_option("--dtype", flags->dtype, "fp8, bf16, int8, int4 or fp32")->capture_default_str();
  command->add_option("--layer-ids", config.layer_ids, "Blocks with a table (default 1,14)")->delimiter(',');
  command->add_option("--max-ngram-size", config.max_ngram_size, "N: orders 2 .. N")->capture_default_str();
  command->add_option("--n-heads", config.n_heads, "Hash heads per order")->capture_default_str();
  command->add_option("--head-dim", config.head_dim, "Columns of a row")->capture_default_str();
  command->add_option("--tokenizer", flags->tokenizer,
                      "tokenizer.json whose ids address the table (default: 129280 ids, none of them compressed)");
  command->add_option("--seed", flags->seed, "Seed of the values")->capture_default_str();
  command->add_flag("--resume", flags->resume, "Go on with an interrupted create");
  command->add_flag("--force", flags->force, "Replace a file");
  command->add_option("file", flags->file, "Row file to write")->required();
  command->callback([flags, &invocation] { invocation.run = [flags] { return run_create(*flags); }; });
}

void add_convert(CLI::App& table, Invocation& invocation) {
  auto flags = std::make_shared<ConvertFlags>();
  CLI::App* command = table.add_subcommand(
      "convert", "Copy the tables of a model (DeepSeek-V4.1, Qwen4Exp, LongCat, GGUF, ours) to a row file");
  command->footer(
      "Examples:\n"
      "  engram table convert demo/engram demo/engram.rows --dtype fp8\n"
      "  engram table convert model.gguf model.rows");
  command->add_option("source", flags->source, "Model folder, GGUF file or row file")->required();
  command->add_option("destination", flags->destination, "Row file to write")->required();
  command->add_option("--dtype", flags->dtype, "fp8, bf16, int8, int4 or fp32 (default: as it is, without loss)");
  command->add_option("--tokenizer", flags->tokenizer, "tokenizer.json, where the folder has none");
  command->add_flag("--resume", flags->resume, "Go on with an interrupted conversion");
  command->add_flag("--force", flags->force, "Replace a file");
  command->callback([flags, &invocation] { invocation.run = [flags] { return run_convert(*flags); }; });
}

void add_reader(CLI::App& table, Invocation& invocation, const char* name, const char* help,
                Status (*run)(const ReadFlags&)) {
  auto flags = std::make_shared<ReadFlags>();
  CLI::App* command = table.add_subcommand(name, help);
  command->footer(
      fmt::format("Example:\n  engram table {} t.rows{}", name, run == run_lookup ? " --layer 1 --ids '0 5 7'" : ""));
  command->add_option("path", flags->path, "Row file, GGUF file, model folder or checkpoint")->required();
  command->add_option("--tokenizer", flags->tokenizer, "tokenizer.json, where the folder has none");
  command->add_flag("--json", flags->json, "Print JSON");
  if (run == run_lookup) {
    command->add_option("--layer", flags->layer, "Block id of the table")->required();
    command->add_option("--ids", flags->ids, "Row ids between blanks")->required();
  }
  command->callback([flags, &invocation, run] { invocation.run = [flags, run] { return run(*flags); }; });
}

}  // namespace

void add_table(CLI::App& app, Invocation& invocation) {
  CLI::App* table = app.add_subcommand("table", "Create, convert, inspect, verify and read embedding tables");
  table->require_subcommand(1);
  table->footer("Example:\n  engram table inspect demo/engram");
  add_create(*table, invocation);
  add_convert(*table, invocation);
  add_reader(*table, invocation, "inspect", "Show the layers, their formats and how rows are addressed", run_inspect);
  add_reader(*table, invocation, "verify", "Check every page; exit 1 and the page on damage", run_verify);
  add_reader(*table, invocation, "lookup", "Print rows by id, decoded to float32", run_lookup);
}

}  // namespace engram::apps
