// engram audit: is a checkpoint what it says it is? Exit code 1 where something is wrong.
#include "engram/train/audit.h"

#include <memory>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/torch_commands.h"
#include "apps/torch_process.h"

namespace engram::apps {
namespace {

Status run_audit(const std::string& checkpoint, bool json) {
  set_up_torch();
  ENGRAM_ASSIGN_OR_RETURN(const AuditReport report, audit(Env::posix(), checkpoint));
  nlohmann::ordered_json out = {
      {"checkpoint", report.checkpoint}, {"faults", report.faults()}, {"lines", nlohmann::json::array()}};
  for (const AuditLine& line : report.lines) {
    const char* verdict = audit_verdict_name(line.verdict);
    out["lines"].push_back({{"verdict", verdict}, {"subject", line.subject}, {"text", line.text}});
    if (!json) fmt::print("{:<6}{}: {}\n", verdict, line.subject, line.text);
  }
  if (json) fmt::print("{}\n", out.dump());
  std::fflush(stdout);
  if (report.faults() == 0) return {};
  return data_loss("{}: {} fault{}, printed above", report.checkpoint, report.faults(),
                   report.faults() == 1 ? "" : "s");
}

}  // namespace

void add_audit(CLI::App& app, Invocation& invocation) {
  auto checkpoint = std::make_shared<std::string>();
  auto json = std::make_shared<bool>(false);
  CLI::App* command = app.add_subcommand("audit", torch_command_help("", "audit"));
  command->footer(
      "Compares configuration, tokenizer, weights, recipe, training shards, state and metrics with each other, and "
      "looks\n"
      "for numbers that are not finite, experts that no token reached, and rows that no step touched. Reads only.\n"
      "Run it where the run was started, so that the files of the recipe are found.\n"
      "Example:\n"
      "  engram audit runs/mytext");
  command->add_option("checkpoint", *checkpoint, "checkpoint directory, or a training output (its latest)")->required();
  command->add_flag("--json", *json, R"({"checkpoint", "faults", "lines": [{"verdict", "subject", "text"}]})");
  command->callback([checkpoint, json, &invocation] {
    invocation.run = [checkpoint, json] { return run_audit(*checkpoint, *json); };
  });
}

}  // namespace engram::apps
