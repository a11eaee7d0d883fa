#include "engram/lab/study/study_runner.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <deque>
#include <list>
#include <optional>
#include <thread>

#include "engram/core/child_process.h"
#include "engram/core/json.h"
#include "engram/core/machine.h"
#include "engram/core/output_lock.h"
#include "engram/core/progress.h"
#include "engram/lab/study/run_output.h"
#include "engram/lab/study/study.h"
#include "engram/lab/study/study_record.h"
#include "engram/lab/study/study_report.h"
#include "engram/model/io/checkpoint.h"

namespace engram {
namespace {

constexpr auto kPoll = std::chrono::milliseconds(500);
// Children of a killed runner write their checkpoints, and hold the lock until they have.
const OutputLock::Options kLock = {.patience = std::chrono::seconds(20), .children_share = true};
constexpr size_t kMostFailures = 3;

std::string weights_directory(const std::string& work) { return join_path(work, "weights"); }

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The lines of the running runs, redrawn in place. Draws nothing where stderr is no terminal.
class RunLines {
 public:
  void draw(const std::vector<std::string>& lines) {
    if (!terminal_) return;
    std::string text = erased();
    for (const std::string& line : lines) text += line + "\n";
    drawn_ = lines.size();
    std::fputs(text.c_str(), stderr);
  }
  void log(const std::string& line) {
    std::fputs(((terminal_ ? erased() : std::string()) + line + "\n").c_str(), stderr);
    drawn_ = 0;
  }
  bool terminal() const { return terminal_; }

 private:
  std::string erased() const { return drawn_ == 0 ? std::string() : fmt::format("\x1b[{}A\x1b[J", drawn_); }
  const bool terminal_ = isatty(STDERR_FILENO) != 0;
  size_t drawn_ = 0;
};

struct RunningRun {
  const StudyRun* run;
  ChildProcess child;
  int64_t first_step;
  double start;
};

class Runner {
 public:
  Runner(Env& env, const StudyOptions& options, Study study, std::vector<StudyRun> runs)
      : env_(env),
        options_(options),
        study_(std::move(study)),
        runs_(std::move(runs)),
        work_(join_path(options.work, study_.folder_name())) {}

  Status open() {
    ENGRAM_ASSIGN_OR_RETURN(folder_, study_folder(env_, options_.results, study_));
    ENGRAM_ASSIGN_OR_RETURN(lock_, OutputLock::folder(env_, folder_, kLock));
    ENGRAM_ASSIGN_OR_RETURN(records_, read_records(env_, folder_, study_.name));
    ENGRAM_RETURN_IF_ERROR(check_records(records_, runs_, folder_));
    for (const StudyRun& run : runs_)
      if (!records_.contains(run.name)) waiting_.push_back(&run);
    fmt::print(stderr, "{}: {} of {} runs are done\n", folder_, runs_.size() - waiting_.size(), runs_.size());
    const auto begun = [&](const StudyRun* run) { return env_.file_exists(output_of(*run)); };
    if (!options_.resume && (!records_.empty() || std::any_of(waiting_.begin(), waiting_.end(), begun)))
      return make_status(StatusCode::kAlreadyExists,
                         "{}: has begun ({} records; checkpoints in {}); resume it, or move both away", folder_,
                         records_.size(), work_);
    ENGRAM_RETURN_IF_ERROR(check_weights());
    for (const StudyRun& run : runs_)  // a runner was killed between the record and the removal
      if (records_.contains(run.name)) ENGRAM_RETURN_IF_ERROR(remove_work(run));
    return {};
  }

  Status loop() {
    while (next_ready() != waiting_.end() || !running_.empty()) {
      while (may_start()) ENGRAM_RETURN_IF_ERROR(start_next());
      std::this_thread::sleep_for(kPoll);
      ENGRAM_RETURN_IF_ERROR(collect());
      if (stopping() && !terminated_) {
        for (RunningRun& running : running_) running.child.terminate();
        terminated_ = true;
      }
      draw();
      if (running_.empty() && (stopping() || failures_.size() >= kMostFailures)) break;
    }
    ENGRAM_RETURN_IF_ERROR(write_pages());
    if (!failures_.empty())
      return make_status(StatusCode::kFailedPrecondition, "{} failed: {}", failures_.size() == 1 ? "a run" : "runs",
                         fmt::join(failures_, "; "));
    if (stopping() && (!waiting_.empty() || interrupted_ > 0))
      return make_status(StatusCode::kCancelled, "interrupted with {} of {} runs done; resume it to continue",
                         records_.size(), runs_.size());
    return {};
  }

 private:
  std::string output_of(const StudyRun& run) const { return join_path(work_, run.name); }
  std::string weights_of(const std::string& run) const { return join_path(weights_directory(work_), run); }
  std::string log_of(const StudyRun& run) const { return join_path(work_, run.name + ".log"); }
  std::string recipe_of(const StudyRun& run) const { return join_path(work_, run.name + ".toml"); }
  bool stopping() const { return options_.stop && options_.stop->load(); }
  bool may_start() {
    return next_ready() != waiting_.end() && static_cast<int64_t>(running_.size()) < options_.jobs && !stopping() &&
           failures_.size() < kMostFailures;
  }

  // A record may come from another machine, which kept the weights.
  Status check_weights() const {
    for (const StudyRun* run : waiting_)
      if (records_.contains(run->after) && !env_.file_exists(weights_of(run->after)))
        return make_status(StatusCode::kFailedPrecondition,
                           "{}: {} starts from these weights, and they are not there: copy them from where {} ran, or "
                           "move its record away and it is made again",
                           weights_of(run->after), run->name, run->after);
    return {};
  }

  // The first run whose weights to start from are there; waiting_.end() when all wait for runs that have not ended.
  std::deque<const StudyRun*>::iterator next_ready() {
    return std::find_if(waiting_.begin(), waiting_.end(),
                        [&](const StudyRun* run) { return run->after.empty() || records_.contains(run->after); });
  }

  Status start_next() {
    const auto next = next_ready();
    const StudyRun& run = **next;
    waiting_.erase(next);
    ENGRAM_RETURN_IF_ERROR(write_file_atomic(env_, recipe_of(run), run.recipe.to_toml()));
    std::vector<std::string> arguments = {
        options_.executable, "train", recipe_of(run), "--json", "--set", "train.output=" + output_of(run)};
    if (env_.file_exists(join_path(output_of(run), "latest"))) arguments.push_back("--resume");
    const int64_t step = arguments.back() == "--resume" ? last_metrics(env_, output_of(run)).step : 0;
    ENGRAM_ASSIGN_OR_RETURN(ChildProcess child, ChildProcess::start(arguments, log_of(run)));
    running_.push_back({&run, std::move(child), step, seconds_now()});
    return {};
  }

  Status collect() {
    for (auto running = running_.begin(); running != running_.end();) {
      const auto exit_code = running->child.poll();
      if (!exit_code) {
        ++running;
        continue;
      }
      const StudyRun& run = *running->run;
      running = running_.erase(running);
      if (*exit_code == 0) {
        ENGRAM_RETURN_IF_ERROR(finish(run));
      } else if (stopping()) {
        ++interrupted_;
      } else {
        failures_.push_back(fmt::format("{} (exit code {}): {} (see {})", run.name, *exit_code,
                                        last_log_line(env_, log_of(run)), log_of(run)));
        lines_.log(failures_.back());
      }
    }
    return {};
  }

  // The record comes first and the removal last, so that a kill in between repeats nothing but this.
  Status finish(const StudyRun& run) {
    const std::string line = last_log_line(env_, log_of(run));
    ENGRAM_ASSIGN_OR_RETURN(const auto summary, parse_json(line, log_of(run)));
    if (study_.keep_weights && weights_are_the_model(run.control)) ENGRAM_RETURN_IF_ERROR(keep_weights(run));
    ENGRAM_ASSIGN_OR_RETURN(auto record, make_record(env_, study_, run, output_of(run), summary));
    if (study_.decode_tokens > 0 && weights_are_the_model(run.control)) {
      ENGRAM_ASSIGN_OR_RETURN(record["decode"], time_decoding(run));
    }
    ENGRAM_RETURN_IF_ERROR(write_record(env_, folder_, run.name, record));
    ENGRAM_RETURN_IF_ERROR(remove_work(run));
    lines_.log(fmt::format("{}: validation loss {:.4f}, {:.4f} bits per byte, {} ({} of {})", run.name,
                           record.at("val_loss").get<double>(), record.at("bits_per_byte").get<double>(),
                           format_duration(record.at("seconds").get<double>()), records_.size() + 1, runs_.size()));
    records_.emplace(run.name, std::move(record));
    return write_pages();
  }

  // What the final model costs those who use it: tokens per second of one text, and the memory of its process.
  Result<nlohmann::ordered_json> time_decoding(const StudyRun& run) {
    const std::string tokens = std::to_string(study_.decode_tokens);
    ENGRAM_ASSIGN_OR_RETURN(ChildProcess child,
                            ChildProcess::start({options_.executable, "generate", output_of(run), "--prompt", "The",
                                                 "--max-tokens", tokens, "--ignore-eos", "--json"},
                                                log_of(run)));
    std::optional<int> exit_code;
    while (!(exit_code = child.poll())) std::this_thread::sleep_for(kPoll);
    const std::string line = last_log_line(env_, log_of(run));
    if (*exit_code != 0)
      return make_status(stopping() ? StatusCode::kCancelled : StatusCode::kFailedPrecondition,
                         "{} (exit code {}): decoding: {}", run.name, *exit_code, line);
    ENGRAM_ASSIGN_OR_RETURN(const auto told, parse_json(line, log_of(run)));
    nlohmann::ordered_json out;
    for (const char* key : {"tokens_per_second", "peak_rss_bytes"}) out[key] = told.at(key);
    return out;
  }

  Status remove_work(const StudyRun& run) {
    for (const std::string& file : {recipe_of(run), log_of(run)})
      if (env_.file_exists(file)) ENGRAM_RETURN_IF_ERROR(env_.remove_file(file));
    return env_.remove_directory_recursively(output_of(run));
  }

  // A bf16 copy without optimizer state, for the checkpoint studies and for the runs that continue this one.
  Status keep_weights(const StudyRun& run) {
    const std::string directory = weights_of(run.name);
    const std::string temporary = directory + ".tmp";
    ENGRAM_RETURN_IF_ERROR(env_.remove_directory_recursively(temporary));
    ENGRAM_RETURN_IF_ERROR(env_.create_directories(parent_path(directory)));
    ENGRAM_RETURN_IF_ERROR(env_.create_directory(temporary));
    ENGRAM_RETURN_IF_ERROR(copy_model(env_, output_of(run), temporary, torch::kBFloat16));
    ENGRAM_RETURN_IF_ERROR(write_file_atomic(env_, join_path(temporary, "recipe.toml"), run.recipe.to_toml()));
    ENGRAM_RETURN_IF_ERROR(env_.remove_directory_recursively(directory));
    return env_.rename_file(temporary, directory);
  }

  Status write_pages() {
    if (records_.empty()) return {};
    const auto data = make_study_data(study_, options_.command, runs_.size(), records_);
    ENGRAM_RETURN_IF_ERROR(write_file_atomic(env_, join_path(folder_, "data.json"), data.dump(1) + "\n"));
    return write_study_pages(env_, folder_, data);
  }

  void draw() {
    if (!lines_.terminal()) return;
    std::vector<std::string> lines;
    for (const RunningRun& running : running_) {
      const RunMetrics last = last_metrics(env_, output_of(*running.run));
      const int64_t steps = running.run->recipe.train.steps, done = last.step - running.first_step;
      const double rate = done > 0 ? static_cast<double>(done) / (seconds_now() - running.start) : 0;
      lines.push_back(fmt::format("  {}: step {} of {}, loss {:.4f}, {} tokens/s, {} left", running.run->name,
                                  last.step, steps, last.loss, format_count(last.tokens_per_second),
                                  rate > 0 ? format_duration(static_cast<double>(steps - last.step) / rate) : "?"));
    }
    lines_.draw(lines);
  }

  Env& env_;
  const StudyOptions& options_;
  const Study study_;
  const std::vector<StudyRun> runs_;
  const std::string work_;
  std::string folder_;
  std::optional<OutputLock> lock_;  // of folder_, which another --work may name too
  StudyRecords records_;
  std::deque<const StudyRun*> waiting_;
  std::list<RunningRun> running_;
  std::vector<std::string> failures_;
  RunLines lines_;
  int64_t interrupted_ = 0;
  bool terminated_ = false;
};

}  // namespace

Status run_study(Env& env, const StudyOptions& options) {
  ENGRAM_ASSIGN_OR_RETURN(Study study, Study::load(env, options.path));
  if (study.name != options.name)
    return invalid_argument("{}: got study {}, wanted {}, which is in this file", options.path,
                            quote_text(options.name), quote_text(study.name));
  const std::string work = join_path(options.work, study.folder_name());
  ExpandOptions expand;
  expand.seeds = options.seeds;
  expand.overrides = options.overrides;
  expand.data_directory = join_path(work, "data");
  expand.weights_directory = weights_directory(work);
  ENGRAM_ASSIGN_OR_RETURN(std::vector<StudyRun> runs, expand_study(env, study, expand));
  fmt::print("{}", describe_runs(runs));
  std::fflush(stdout);
  if (options.dry_run) return {};
  ENGRAM_ASSIGN_OR_RETURN(const OutputLock work_lock, OutputLock::folder(env, work, kLock));
  Runner runner(env, options, std::move(study), std::move(runs));
  ENGRAM_RETURN_IF_ERROR(runner.open());
  return runner.loop();
}

}  // namespace engram
