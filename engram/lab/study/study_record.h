// Records of finished runs: RESULTS/STUDY-SCALE-DATE/runs/RUN.json, one each, and data.json, made of all of them.
//
// A record is whole or absent, and holds the resolved recipe, so that a run is never repeated, never mixed with one of
// another recipe, and another machine can continue the folder. docs/lab.md lists the fields.
#pragma once
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"
#include "engram/lab/study/study.h"

namespace engram {

using StudyRecords = std::map<std::string, nlohmann::ordered_json>;  // by run name

// The study's folder below `results`: the newest STUDY-SCALE-YYYY-MM-DD, or today's name when there is none.
Result<std::string> study_folder(Env& env, const std::string& results, const Study& study);

// Every record in FOLDER/runs; none when the folder is not there. kDataLoss: a record that is no record of `study`.
Result<StudyRecords> read_records(Env& env, const std::string& folder, const std::string& study);
// kFailedPrecondition: the record of a planned run was made by another recipe; names the keys. The device and where the
// tables lay there may differ.
Status check_records(const StudyRecords& records, const std::vector<StudyRun>& runs, const std::string& folder);

// The record of a run that has ended: its last metrics, and `summary`, what `engram train --json` printed.
Result<nlohmann::ordered_json> make_record(Env& env, const Study& study, const StudyRun& run, const std::string& output,
                                           const nlohmann::json& summary);
Status write_record(Env& env, const std::string& folder, const std::string& run, const nlohmann::ordered_json& record);

// {"study", "scale", ..., "commit", "machine", "runs": [...]}: everything a page needs. The recipes stay in the
// records. Several commits or machines are all named, separated by ", ".
nlohmann::ordered_json make_study_data(const Study& study, const std::string& command, size_t planned,
                                       const StudyRecords& records);

}  // namespace engram
