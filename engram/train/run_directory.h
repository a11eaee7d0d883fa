// RunDirectory: OUTPUT, where a run keeps its checkpoints.
//
//   OUTPUT/step-00000040/   a checkpoint (docs/formats/checkpoint.md, docs/formats/train_state.md)
//   OUTPUT/latest           symbolic link to the newest complete one; moves last
//   OUTPUT/metrics.jsonl    one object per step
//   OUTPUT/data/            tokenizer and shards of [data.synthetic]
// A checkpoint is written under a name that starts with ".tmp-", synced, renamed, and only then linked, so a kill at
// any moment leaves `latest` at a complete checkpoint.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "engram/core/env.h"
#include "engram/core/status.h"

namespace engram {

class RunDirectory {
 public:
  // Looks at `output`, which need not exist, and changes nothing. Without resume a directory with a checkpoint is
  // refused (kAlreadyExists). A run that was killed before its first checkpoint starts again, with resume or without.
  static Result<RunDirectory> open(Env& env, const std::string& output, bool resume);
  // Makes the directory where it does not exist and removes what a killed run left half-written.
  Status create();

  const std::string& path() const { return path_; }
  std::string metrics_path() const;
  std::string data_path() const;
  // Directory of the newest complete checkpoint, when there is one.
  const std::optional<std::string>& latest() const { return latest_; }

  // `write` fills the directory it is given. On an error nothing has changed but the temporary directory, which goes.
  // Afterwards all but the newest `keep` checkpoints are removed (0: none). Returns the checkpoint's path.
  Result<std::string> publish(int64_t step, int64_t keep,
                              const std::function<Status(const std::string& directory)>& write);

 private:
  RunDirectory(Env& env, std::string path) : env_(&env), path_(std::move(path)) {}
  Status remove_old(int64_t keep);

  Env* env_;
  std::string path_;
  std::optional<std::string> latest_;
};

std::string checkpoint_name(int64_t step);  // "step-00000040"

}  // namespace engram
