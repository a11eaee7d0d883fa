// Audit: is a checkpoint, and the run that wrote it, what it says it is?
//
// Files against each other: configuration, tokenizer, weights, recipe, counted parameters, training shards, state,
// metrics. And numbers: weights and states that are not finite, experts that no token has reached, rows that no step
// has touched. Reads all of a checkpoint, writes nothing.
#pragma once
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"

namespace engram {

enum class AuditVerdict { kGood, kNote, kFault };
const char* audit_verdict_name(AuditVerdict verdict);  // "good", "note", "fault"

struct AuditLine {
  AuditVerdict verdict = AuditVerdict::kGood;
  std::string subject, text;  // one line each
};

struct AuditReport {
  std::string checkpoint;
  std::vector<AuditLine> lines;
  int64_t faults() const;
};

// path: as in resolve_checkpoint(); files that the recipe names are looked for from the working directory, as `train`
// does. kNotFound, kInvalidArgument: there is no checkpoint at all; whatever is wrong with one is a line.
Result<AuditReport> audit(Env& env, const std::string& path);

}  // namespace engram
