// engram serve: a checkpoint behind OpenAI's HTTP API, and a page that shows what its memory does.
#include <torch/cuda.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "apps/commands.h"
#include "apps/stop_signal.h"
#include "apps/torch_commands.h"
#include "apps/torch_process.h"
#include "engram/core/json.h"
#include "engram/core/progress.h"
#include "engram/model/io/checkpoint.h"
#include "engram/serve/api_keys.h"
#include "engram/serve/engine_thread.h"
#include "engram/serve/http_server.h"
#include "engram/serve/http_types.h"
#include "engram/store/open.h"

namespace engram::apps {
namespace {

std::string shell_quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

struct ServeFlags {
  std::string checkpoint, api_key_file, kv_cache = "1GiB", reads = "ahead";
  std::string log_level = "info", log_format = "text";
  std::vector<std::string> overlays;
  EngineOptions engine;
  HttpServerOptions http;
  std::string device = "cpu", dtype = "auto";
  bool prefix_cache = true;
  int threads = 0;
};

std::string name_of(const std::string& checkpoint) {
  std::string path = checkpoint;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? path : path.substr(slash + 1);
}

// "NAME=FILE" each.
Result<std::vector<NamedOverlay>> named_overlays(const std::vector<std::string>& texts) {
  std::vector<NamedOverlay> out;
  for (const std::string& text : texts) {
    const size_t equals = std::min(text.find('='), text.size());
    NamedOverlay overlay{text.substr(0, equals), equals < text.size() ? text.substr(equals + 1) : ""};
    if (overlay.name.empty() || overlay.path.empty())
      return invalid_argument("--overlay: got {}, wanted NAME=FILE", quote_text(text));
    if (std::ranges::find(out, overlay.name, &NamedOverlay::name) != out.end())
      return invalid_argument("--overlay: {} is there twice", quote_text(overlay.name));
    out.push_back(std::move(overlay));
  }
  return out;
}

LogLevel level_of(const std::string& name) {
  if (name == "debug") return LogLevel::kDebug;
  if (name == "warning") return LogLevel::kWarning;
  if (name == "error") return LogLevel::kError;
  return name == "off" ? LogLevel::kOff : LogLevel::kInfo;
}

void print_banner(const std::string& url, const EngineInfo& info, const EngineThread& engine, int64_t block_size,
                  bool keys) {
  fmt::print("{} at {}  (context {} tokens, {} pages of {}, memory {})\n", info.model, url, info.max_context,
             engine.metrics().kv_blocks_total, block_size, info.layer_ids.empty() ? "none" : info.placement);
  for (const OverlayInfo& one : info.overlays)
    fmt::print("overlay {}: {} rows, {:.1f} KB\n", one.name, one.rows, static_cast<double>(one.bytes) / 1000);
  fmt::print("page: {}/   API: {}/v1   metrics: {}/metrics   Ctrl-C ends it when what runs is done\n", url, url, url);
  const nlohmann::ordered_json body = {{"model", info.model}, {"prompt", "The king"}, {"max_tokens", 32}};
  fmt::print("the model's name is {}; ask it:\n  curl {}/v1/completions {}-H 'Content-Type: application/json' -d {}\n",
             quote_text(info.model), url, keys ? "-H 'Authorization: Bearer KEY' " : "", shell_quoted(json_line(body)));
  std::fflush(stdout);
}

// Until a signal comes, or something fails that no request is to blame for.
Status wait_for_the_end(const std::atomic<bool>& stop, const HttpServer& server, const EngineThread& engine) {
  while (!stop) {
    ENGRAM_RETURN_IF_ERROR(engine.failure());
    ENGRAM_RETURN_IF_ERROR(server.failure());
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return Status();
}

Status run_serve(const ServeFlags& flags) {
  EngineOptions options = flags.engine;
  options.prefix_cache = flags.prefix_cache;
  options.overlap_reads = flags.reads == "ahead";
  if (options.model_name.empty()) options.model_name = name_of(flags.checkpoint);
  ENGRAM_ASSIGN_OR_RETURN(options.kv_cache_bytes, parse_size(flags.kv_cache));
  ENGRAM_ASSIGN_OR_RETURN(options.overlays, named_overlays(flags.overlays));
  HttpServerOptions http = flags.http;
  if (!flags.api_key_file.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(http.api_keys, read_api_keys(Env::posix(), flags.api_key_file));
  }
  set_up_torch(flags.threads);
  if (flags.device == "cuda" && !torch::cuda::is_available()) {
    return Status(StatusCode::kFailedPrecondition,
                  "--device: got cuda, but no NVIDIA device is usable by this program; wanted cpu");
  }
  ENGRAM_ASSIGN_OR_RETURN(const LoadedModel model, load_model(Env::posix(), flags.checkpoint,
                                                              {.device = flags.device,
                                                               .dtype = parse_weights(flags.dtype),
                                                               .with_tables = may_be_resident(options.tables)}));
  http.chat_template = model.chat_template;
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<LLMEngine> engine, LLMEngine::create(Env::posix(), model, options));
  http.log = std::make_shared<ServerLog>(level_of(flags.log_level),
                                         flags.log_format == "json" ? LogFormat::kJson : LogFormat::kText);
  EngineThread running(std::move(engine), http.log);
  std::signal(SIGPIPE, SIG_IGN);  // a reader of the log or of the banner that goes away ends nothing
  // The first signal ends the server when what runs is done, the second at once, a third kills it.
  const std::span<const std::atomic<bool>> stop = stop_on_signals(2);
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<HttpServer> server, HttpServer::start(http, running, *model.tokenizer));
  const EngineInfo& info = running.info();
  print_banner(server->url(), info, running, options.block_size, !http.api_keys.empty());
  http.log->write(LogLevel::kInfo, "started",
                  {{"model", info.model}, {"url", server->url()}, {"placement", info.placement}});
  const Status end = wait_for_the_end(stop[0], *server, running);
  if (end.ok()) fmt::print("shutting down: running requests end first; a second signal cancels them\n");
  std::fflush(stdout);
  http.log->write(LogLevel::kInfo, "draining", {{"running", running.metrics().running}});
  server->shutdown([&] { return stop[1] || !end.ok(); });
  const EngineMetrics last = running.metrics();
  http.log->write(LogLevel::kInfo, "stopped",
                  {{"finished", last.finished},
                   {"cancelled", last.cancelled},
                   {"failed", last.failed},
                   {"generated_tokens", last.generated_tokens}});
  fmt::print("choices served: {}, with {} tokens; {} cancelled, {} failed\n", last.finished, last.generated_tokens,
             last.cancelled, last.failed);
  return end;
}

}  // namespace

void add_serve(CLI::App& app, Invocation& invocation) {
  auto flags = std::make_shared<ServeFlags>();
  flags->engine.model_name.clear();
  CLI::App* command = app.add_subcommand("serve", torch_command_help("", "serve"));
  command->footer(
      "Example:\n"
      "  engram table convert demo/engram demo/engram.rows --dtype fp8\n"
      "  engram serve demo/engram --port 8000 --table nvme:demo/engram.rows?cache=64MiB\n"
      "  curl localhost:8000/v1/completions -H 'Content-Type: application/json' -d "
      "'{\"model\":\"engram\",\"prompt\":\"The king\"}'");
  command->add_option("checkpoint", flags->checkpoint, "checkpoint directory, or a training output (its latest)")
      ->required();
  command->add_option("--port", flags->http.port, "0: any that is free")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  command->add_option("--host", flags->http.host, "address to listen on; any except loopback needs --api-key-file")
      ->capture_default_str();
  command->add_option("--api-key-file", flags->api_key_file, "accepted keys, one a line");
  command->add_option("--table", flags->engine.tables,
                      "where the tables are: resident (the default), TIER:FILE?key=value (docs/serving.md), or"
                      " LAYER=one of these; may be repeated");
  command->add_option("--overlay", flags->overlays,
                      "NAME=FILE: edited rows for the requests with \"overlay\": \"NAME\" (docs/serving.md); may be"
                      " repeated");
  command->add_option("--model-name", flags->engine.model_name, "what clients call it; default: the checkpoint's name");
  command->add_option("--kv-cache", flags->kv_cache, "memory for keys and values, as 512MiB or 4GiB")
      ->capture_default_str();
  command->add_option("--max-sequences", flags->engine.scheduler.max_sequences, "sequences that run at the same time")
      ->capture_default_str();
  command->add_option("--max-batched-tokens", flags->engine.scheduler.max_batched_tokens, "tokens of one step")
      ->capture_default_str();
  command
      ->add_option("--draft-tokens", flags->engine.scheduler.max_draft_tokens,
                   "guesses at a sequence's next tokens that a step checks (prompt lookup): the same output in fewer"
                   " steps where text repeats; 0: none")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->add_option("--max-waiting", flags->engine.max_waiting, "requests that may queue; more get 429")
      ->capture_default_str();
  command->add_option("--max-connections", flags->http.max_connections, "more get 503")->capture_default_str();
  command
      ->add_option("--max-connections-per-address", flags->http.max_connections_per_address,
                   "0: a quarter of all; of this machine's own addresses no limit")
      ->capture_default_str();
  command->add_option("--log-level", flags->log_level, "lowest level of the lines on stderr")
      ->check(CLI::IsMember({"debug", "info", "warning", "error", "off"}))
      ->capture_default_str();
  command->add_option("--log-format", flags->log_format, "json: an object on every line")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  command->add_flag("--access-log", flags->http.access_log, "a line for every request, not only for those that fail");
  command->add_option("--reads", flags->reads, "ahead: rows are read while early blocks run; wait: before them")
      ->check(CLI::IsMember({"ahead", "wait"}))
      ->capture_default_str();
  command->add_flag("!--no-prefix-cache", flags->prefix_cache, "compute every prompt from its first token");
  add_dtype_option(*command, flags->dtype);
  command->add_option("--device", flags->device, "cpu, or cuda, whose weights are always bf16")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  command->add_option("--threads", flags->threads, "of the model; 0: all cores")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->callback([flags, &invocation] { invocation.run = [flags] { return run_serve(*flags); }; });
}

}  // namespace engram::apps
