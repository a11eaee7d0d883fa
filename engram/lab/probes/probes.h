// The probes by name, and the one way to run one: load, measure, write data.json, report.html and summary.md.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>

#include "engram/lab/probes/probe.h"

namespace engram {

struct ProbeEntry {
  const char* name;
  const char* question;
  Result<ProbeResult> (*run)(const ProbeContext& context);
  const char* reads;  // words of ProbeOptions, besides checkpoints, output and seed
};
std::span<const ProbeEntry> probe_table();
// nullptr when there is none.
const ProbeEntry* find_probe(const std::string& name);

// kInvalidArgument: two have different vocabularies.
Result<std::vector<LoadedModel>> load_probe_models(Env& env, const std::vector<std::string>& checkpoints);

// Returns what data.json holds. kInvalidArgument: none or more than two checkpoints; `output` receives the folder.
// kAlreadyExists: the folder holds a result of another probe, of other checkpoints or of another commit; it is found
// before anything is computed.
Result<nlohmann::ordered_json> run_probe(Env& env, const ProbeEntry& probe, const ProbeOptions& options,
                                         std::string* output);

}  // namespace engram
