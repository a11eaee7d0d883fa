// CsvLog: OUTPUT/metrics.csv, a row for each step. The columns are `step`, the numbers of the first line, and those of
// `later`; what a later line has beyond them is in metrics.jsonl only. A field that a step lacks is empty.
#pragma once
#include <string>
#include <vector>

#include "engram/train/metrics_sink.h"

namespace engram {

class CsvLog : public MetricsSink {
 public:
  static Result<std::unique_ptr<CsvLog>> open(Env& env, const std::string& path, const std::vector<std::string>& later,
                                              int64_t step);
  Status append(const nlohmann::ordered_json& line) override;
  Status sync() override { return file_->sync(); }

 private:
  CsvLog() = default;
  std::vector<std::string> later_, columns_;  // no columns: the file is empty
  std::unique_ptr<WritableFile> file_;
};

}  // namespace engram
