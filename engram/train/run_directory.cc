#include "engram/train/run_directory.h"

#include <algorithm>
#include <vector>

namespace engram {
namespace {

constexpr char kTemporaryPrefix[] = ".tmp-";
constexpr char kCheckpointPrefix[] = "step-";
constexpr char kLatest[] = "latest";
constexpr char kMetrics[] = "metrics.jsonl";

}  // namespace

std::string checkpoint_name(int64_t step) { return fmt::format("{}{:08}", kCheckpointPrefix, step); }

std::string RunDirectory::metrics_path() const { return join_path(path_, kMetrics); }
std::string RunDirectory::data_path() const { return join_path(path_, "data"); }

Result<RunDirectory> RunDirectory::open(Env& env, const std::string& output, bool resume) {
  RunDirectory run(env, output);
  const std::string link = join_path(output, kLatest);
  if (auto target = env.read_symlink(link); target.ok()) {
    const std::string directory = join_path(output, *target);
    if (!env.file_exists(directory)) return data_loss("{}: points at '{}', which does not exist", link, *target);
    run.latest_ = directory;
  }
  if (!resume && run.latest_)
    return make_status(StatusCode::kAlreadyExists,
                       "{}: already holds a run (latest: {}); resume it, or choose another train.output", output,
                       *run.latest_);
  return run;
}

Status RunDirectory::create() {
  ENGRAM_RETURN_IF_ERROR(env_->create_directories(path_));
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<std::string> names, env_->list_directory(path_));
  for (const std::string& name : names)
    if (name.starts_with(kTemporaryPrefix))
      ENGRAM_RETURN_IF_ERROR(env_->remove_directory_recursively(join_path(path_, name)));
  return Status();
}

Result<std::string> RunDirectory::publish(int64_t step, int64_t keep,
                                          const std::function<Status(const std::string& directory)>& write) {
  const std::string name = checkpoint_name(step), final_path = join_path(path_, name);
  const std::string temporary = join_path(path_, kTemporaryPrefix + name);
  const std::string replaced = join_path(path_, std::string(kTemporaryPrefix) + "old-" + name);
  const auto commit = [&]() -> Status {
    ENGRAM_RETURN_IF_ERROR(env_->remove_directory_recursively(temporary));
    ENGRAM_RETURN_IF_ERROR(env_->create_directory(temporary));  // a link of this name would lead elsewhere
    ENGRAM_RETURN_IF_ERROR(write(temporary));
    ENGRAM_RETURN_IF_ERROR(env_->sync_directory(temporary));
    // A checkpoint of this step that `latest` never reached: an earlier attempt was killed between rename and link.
    if (env_->file_exists(final_path)) ENGRAM_RETURN_IF_ERROR(env_->rename_file(final_path, replaced));
    ENGRAM_RETURN_IF_ERROR(env_->rename_file(temporary, final_path));
    ENGRAM_RETURN_IF_ERROR(env_->sync_directory(path_));
    ENGRAM_RETURN_IF_ERROR(env_->replace_symlink(name, join_path(path_, kLatest)));
    return env_->sync_directory(path_);
  };
  if (Status status = commit(); !status.ok()) {
    // The first error is the one to report; what cannot be removed now is removed by the next create().
    (void)env_->remove_directory_recursively(temporary).ok();
    return status.with_context(fmt::format("checkpoint of step {}", step));
  }
  latest_ = final_path;
  ENGRAM_RETURN_IF_ERROR(env_->remove_directory_recursively(replaced));
  ENGRAM_RETURN_IF_ERROR(remove_old(keep));
  return final_path;
}

Status RunDirectory::remove_old(int64_t keep) {
  if (keep == 0) return Status();
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<std::string> names, env_->list_directory(path_));
  std::vector<std::string> checkpoints;  // sorted, and eight digits sort like numbers
  for (const std::string& name : names)
    if (name.starts_with(kCheckpointPrefix) && join_path(path_, name) != *latest_) checkpoints.push_back(name);
  const size_t stay = std::min(checkpoints.size(), static_cast<size_t>(keep - 1));
  for (size_t i = 0; i + stay < checkpoints.size(); ++i) {
    // Renamed first: a directory with a checkpoint's name is always whole.
    const std::string doomed = join_path(path_, kTemporaryPrefix + checkpoints[i]);
    ENGRAM_RETURN_IF_ERROR(env_->rename_file(join_path(path_, checkpoints[i]), doomed));
    ENGRAM_RETURN_IF_ERROR(env_->remove_directory_recursively(doomed));
  }
  return Status();
}

}  // namespace engram
