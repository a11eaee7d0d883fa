// engram tokenizer encode | decode | compress (train: tokenizer_train.cc).
#include <charconv>
#include <cstdio>
#include <functional>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "apps/commands.h"
#include "engram/core/json.h"
#include "engram/core/lines.h"
#include "engram/core/machine.h"
#include "engram/hash/token_map.h"
#include "engram/text/tokenizer.h"

namespace engram::apps {
namespace {

struct TokenizerFlags {
  std::string tokenizer, text, file;
  bool has_text = false, add_special = false, skip_special = false, full = false, json = false;
};

// Any text, tables and JSON lines too: what is in it is the caller's business.
Result<std::string> read_any_file(const std::string& path) {
  return Env::posix().read_file(path, {.max_bytes = available_memory_bytes(), .pipes = true});
}

// Calls `use` with every line of stdin, without its \n; what follows the last \n is a line if it is not empty.
Status each_line_of_stdin(const std::function<Status(const std::string& line)>& use) {
  std::string line;
  for (int64_t number = 1; std::getline(std::cin, line); ++number) {
    if (Status status = use(line); !status.ok()) return status.with_context(fmt::format("stdin: line {}", number));
  }
  if (std::cin.bad()) return Status(StatusCode::kUnavailable, "stdin: cannot be read");
  return {};
}

void print_ids(const std::vector<int32_t>& ids, bool json) {
  if (json) {
    fmt::print("[{}]\n", fmt::join(ids, ","));
  } else {
    fmt::print("{}\n", fmt::join(ids, " "));
  }
}

Status run_encode(const TokenizerFlags& flags) {
  ENGRAM_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::load(Env::posix(), flags.tokenizer));
  auto encode = [&](const std::string& text) -> Status {
    ENGRAM_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer.encode(text, flags.add_special));
    print_ids(ids, flags.json);
    return {};
  };
  if (flags.has_text) {
    ENGRAM_RETURN_IF_ERROR(encode(flags.text).with_context("--text"));
  } else if (!flags.file.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(const std::string text, read_any_file(flags.file));
    ENGRAM_RETURN_IF_ERROR(encode(text).with_context(flags.file));
  } else {
    ENGRAM_RETURN_IF_ERROR(each_line_of_stdin(encode));
  }
  return {};
}

// "[1, 2, 3]" or "1 2 3"; an empty line holds no ids.
Result<std::vector<int32_t>> parse_ids(std::string_view line) {
  std::vector<int32_t> ids;
  const std::string_view white = " \t\r";
  const size_t first = line.find_first_not_of(white);
  if (first == std::string_view::npos) return ids;
  line = line.substr(first, line.find_last_not_of(white) - first + 1);
  const bool array = line.front() == '[';
  if (array && line.back() != ']') return invalid_argument("got {}, wanted an array of ids", quote_text(line));
  if (array) line = line.substr(1, line.size() - 2);
  const char* const end = line.data() + line.size();
  auto skip_white = [&](const char* at) {
    while (at != end && white.find(*at) != std::string_view::npos) ++at;
    return at;
  };
  for (const char* at = skip_white(line.data()); at != end;) {
    int32_t id = 0;
    auto [parsed, error] = std::from_chars(at, end, id);
    const char* next = skip_white(parsed);
    const bool comma = next != end && *next == ',';
    const bool separated = next == end || (array ? comma : next != parsed);
    if (comma && array) next = skip_white(next + 1);
    if (error != std::errc() || !separated || (comma && next == end)) {
      return invalid_argument("got {} at character {}, wanted ids as [1, 2, 3] or 1 2 3",
                              quote_text(std::string_view(at, static_cast<size_t>(end - at)), 20),
                              at - line.data() + (array ? 2 : 1));
    }
    ids.push_back(id);
    at = next;
  }
  return ids;
}

Status run_decode(const TokenizerFlags& flags) {
  ENGRAM_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::load(Env::posix(), flags.tokenizer));
  auto decode = [&](const std::string& line) -> Status {
    ENGRAM_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, parse_ids(line));
    ENGRAM_ASSIGN_OR_RETURN(std::string text, tokenizer.decode(ids, flags.skip_special));
    if (flags.json) text = nlohmann::json(text).dump();
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fputc('\n', stdout);
    return {};
  };
  auto decode_lines = [&](std::string_view lines, const std::string& where) -> Status {
    for (int64_t number = 1; !lines.empty(); ++number) {
      const Status status = decode(std::string(take_line(lines)));
      if (!status.ok()) return status.with_context(fmt::format("{}: line {}", where, number));
    }
    return {};
  };
  if (flags.has_text) {
    ENGRAM_RETURN_IF_ERROR(flags.text.empty() ? decode("") : decode_lines(flags.text, "--text"));
  } else if (!flags.file.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(const std::string lines, read_any_file(flags.file));
    ENGRAM_RETURN_IF_ERROR(decode_lines(lines, flags.file));
  } else {
    ENGRAM_RETURN_IF_ERROR(each_line_of_stdin(decode));
  }
  return {};
}

Status run_compress(const TokenizerFlags& flags) {
  ENGRAM_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::load(Env::posix(), flags.tokenizer));
  ENGRAM_ASSIGN_OR_RETURN(const TokenMap map, TokenMap::from_tokenizer(tokenizer));
  if (flags.json) {
    nlohmann::ordered_json object = {{"vocab_size", map.vocab_size()},
                                     {"compressed_vocab_size", map.compressed_vocab_size()},
                                     {"sha256", map.sha256()}};
    if (flags.full) object["map"] = map.ids();
    fmt::print("{}\n", object.dump());
    return {};
  }
  fmt::print("{} token ids, {} canonical ids ({:.2f} % fewer)\nsha256 {}\n", map.vocab_size(),
             map.compressed_vocab_size(), 100.0 - 100.0 * map.compressed_vocab_size() / map.vocab_size(), map.sha256());
  for (int id = 0; flags.full && id < map.vocab_size(); ++id) {
    fmt::print("{} {}\n", id, map.ids()[static_cast<size_t>(id)]);
  }
  return {};
}

using Run = Status (*)(const TokenizerFlags& flags);

CLI::App* add_command(CLI::App& group, Invocation& invocation, std::shared_ptr<TokenizerFlags> flags, const char* name,
                      const char* description, Run run) {
  CLI::App* command = group.add_subcommand(name, description);
  command->add_option("--tokenizer", flags->tokenizer, "A tokenizer.json (byte-level BPE)")
      ->required()
      ->type_name("FILE");
  command->add_flag("--json", flags->json, "Print JSON");
  command->callback([flags, run, &invocation] { invocation.run = [flags, run] { return run(*flags); }; });
  return command;
}

void add_input(CLI::App* command, TokenizerFlags& flags, const char* text_help) {
  CLI::Option* text = command->add_option_function<std::string>(
      "--text",
      [&flags](const std::string& value) {
        flags.text = value;
        flags.has_text = true;
      },
      text_help);
  text->type_name("S")->expected(1);
  command->add_option("--file", flags.file, "The same from a file; without both, from stdin")
      ->type_name("FILE")
      ->check([](const std::string& path) { return path.empty() ? "wanted a file's name" : ""; })
      ->excludes(text);
}

}  // namespace

void add_tokenizer(CLI::App& app, Invocation& invocation) {
  CLI::App* group =
      app.add_subcommand("tokenizer", "Train a tokenizer; text to token ids, back, and the map of canonical ids");
  group->require_subcommand(1);
  group->footer("Example:\n  engram tokenizer train --output own/tokenizer.json mytext");
  add_tokenizer_train(*group, invocation);

  auto encode_flags = std::make_shared<TokenizerFlags>();
  CLI::App* encode = add_command(*group, invocation, encode_flags, "encode", "Text to token ids", run_encode);
  add_input(encode, *encode_flags, "One text, which gives one array of ids");
  encode->add_flag("--add-special", encode_flags->add_special,
                   "Also add what the file's post_processor adds (begin of text, ...)");
  encode->footer(
      "--text and --file are one text each. stdin is one text per line: split at \\n only, an empty line gives [].\n"
      "Added tokens inside a text are recognised. Output: ids between blanks, with --json an array; a line per text.\n"
      "Example:\n  echo 'Hello, world' | engram tokenizer encode --tokenizer tokenizer.json --json");

  auto decode_flags = std::make_shared<TokenizerFlags>();
  CLI::App* decode = add_command(*group, invocation, decode_flags, "decode", "Token ids to text", run_decode);
  add_input(decode, *decode_flags, "Ids, as [1, 2, 3] or 1 2 3; one array per line");
  decode->add_flag("--skip-special", decode_flags->skip_special, "Leave special tokens out");
  decode->footer(
      "One array of ids per line. Output: each text and a line end; with --json a JSON string per line.\n"
      "Example:\n  engram tokenizer decode --tokenizer tokenizer.json --text '[17464, 11]'");

  auto compress_flags = std::make_shared<TokenizerFlags>();
  CLI::App* compress = add_command(*group, invocation, compress_flags, "compress",
                                   "Size and digest of the map from token ids to canonical ids", run_compress);
  compress->add_flag("--full", compress_flags->full, "Also print the map");
  compress->footer(
      "Ids whose text is the same except for case, accents, width and white space share one canonical id.\n"
      "sha256 is over the map as little-endian int32.\n"
      "Example:\n"
      "  engram tokenizer compress --tokenizer tokenizer.json --json");
}

}  // namespace engram::apps
