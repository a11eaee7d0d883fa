#include "engram/train/phase_profiler.h"

#include <ATen/SequenceNumber.h>
#include <ATen/record_function.h>
#include <c10/util/Exception.h>

#include <chrono>
#include <string_view>
#include <vector>

namespace engram {
namespace {

constexpr std::string_view kPrefix = "phase:";
constexpr char kOther[] = "other";

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Autograd nodes made inside one scope, by sequence number. Inner scopes come later in the list.
struct NodeRange {
  uint64_t begin, end;
  std::string phase;
};

struct Scope {
  std::string phase;
  size_t range;  // in ranges; SIZE_MAX for a backward node
};

// All state of the running profiler; callbacks come from the training thread only (CPU autograd runs there).
struct Profile {
  std::map<std::string, double> seconds;
  std::vector<Scope> open;
  std::vector<NodeRange> ranges;
  double last = 0;
  at::CallbackHandle handle = 0;

  // Everything since the last event belongs to the innermost open scope.
  void charge() {
    const double time = now();
    seconds[open.empty() ? kOther : open.back().phase] += time - last;
    last = time;
  }
  std::string phase_of_node(int64_t sequence_number) const {
    const auto number = static_cast<uint64_t>(sequence_number);
    for (auto range = ranges.rbegin(); range != ranges.rend(); ++range)
      if (number >= range->begin && number < range->end) return range->phase;
    return kOther;
  }
};

Profile& profile() {
  static Profile instance;
  return instance;
}

bool is_watched(const at::RecordFunction& function) {
  return function.scope() == at::RecordScope::BACKWARD_FUNCTION ||
         std::string_view(function.name()).starts_with(kPrefix);
}

std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& function) {
  if (!is_watched(function)) return nullptr;
  Profile& p = profile();
  p.charge();
  if (function.scope() == at::RecordScope::BACKWARD_FUNCTION) {
    p.open.push_back({p.phase_of_node(function.seqNr()), SIZE_MAX});
  } else {
    const std::string phase(std::string_view(function.name()).substr(kPrefix.size()));
    p.open.push_back({phase, p.ranges.size()});
    p.ranges.push_back({at::sequence_number::peek(), UINT64_MAX, phase});
  }
  return nullptr;
}

void on_end(const at::RecordFunction& function, at::ObserverContext*) {
  Profile& p = profile();
  if (!is_watched(function) || p.open.empty()) return;
  p.charge();
  if (p.open.back().range != SIZE_MAX) p.ranges[p.open.back().range].end = at::sequence_number::peek();
  p.open.pop_back();
  // Between steps no graph is alive, so old ranges have no nodes left.
  constexpr size_t kManyRanges = 4096;
  if (p.open.empty() && p.ranges.size() > kManyRanges)
    p.ranges.erase(p.ranges.begin(), p.ranges.end() - kManyRanges / 2);
}

}  // namespace

PhaseProfiler::~PhaseProfiler() { stop(); }

void PhaseProfiler::start() {
  TORCH_CHECK(profile().handle == 0, "one PhaseProfiler at a time");
  profile() = Profile();
  profile().last = now();
  profile().handle =
      at::addGlobalCallback(at::RecordFunctionCallback(on_start, on_end)
                                .scopes({at::RecordScope::USER_SCOPE, at::RecordScope::BACKWARD_FUNCTION}));
  running_ = true;
}

void PhaseProfiler::stop() {
  if (!running_) return;
  at::removeCallback(profile().handle);
  profile().handle = 0;
  profile().open.clear();
  profile().charge();
  running_ = false;
}

std::map<std::string, double> PhaseProfiler::seconds() const { return profile().seconds; }

}  // namespace engram
