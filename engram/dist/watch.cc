#include "engram/dist/watch.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "engram/dist/meeting.h"

namespace engram {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kBeat{250};     // between two signs of life
constexpr milliseconds kSilent{1500};  // without one, a rank has gone or is stopped
constexpr milliseconds kPatience{2000};

// A sign of life: how many there were, and the exchanges that were started on each channel.
using Sign = std::array<int64_t, 1 + kChannels>;

std::string sign_key(int rank) { return fmt::format("alive/{}", rank); }
std::string to_text(const Sign& sign) { return fmt::format("{}", fmt::join(sign, " ")); }
Sign parse_sign(const std::string& text) {
  Sign sign{};
  const char* at = text.c_str();
  for (int64_t& number : sign) {
    char* end = nullptr;
    number = std::strtoll(at, &end, 10);
    at = end;
  }
  return sign;
}

}  // namespace

struct Watch::State {
  World world;
  c10::intrusive_ptr<c10d::Store> store;  // the thread's
  milliseconds timeout;

  std::mutex mutex;
  std::condition_variable changed;
  std::array<int64_t, kChannels> started{};
  std::string left_behind;   // what the first rank that failed wrote
  std::string to_announce;   // written at the next beat
  bool wants_signs = false;  // read all ranks' at each beat
  std::vector<Sign> signs;   // empty: not read yet
  int64_t signs_read = 0;    // how often
  int64_t heard = 0;         // ranks that have read left_behind
  int64_t silent = 0;        // ranks that never will
  bool stop = false, lost = false, ended = false;
  bool hangs = false;  // the store does not answer

  void run();
  void beat(int64_t tick);
};

void Watch::State::run() {
  std::unique_lock lock(mutex);
  try {
    for (int64_t tick = 1; !stop; ++tick) {
      lock.unlock();
      beat(tick);
      lock.lock();
      changed.notify_all();
      if (!stop) changed.wait_for(lock, wants_signs || !left_behind.empty() ? kBeat / 5 : kBeat);
    }
  } catch (const std::exception&) {  // the store has gone
    if (!lock.owns_lock()) lock.lock();
    lost = true;
  }
  ended = true;
  changed.notify_all();
}

// One visit at the store, without the lock: others read and write State meanwhile.
void Watch::State::beat(int64_t tick) {
  Sign mine = {tick};
  std::string announcement;
  bool all = false, heard_already = false;
  {
    const std::lock_guard lock(mutex);
    std::copy(started.begin(), started.end(), mine.begin() + 1);
    announcement = to_announce;
    all = wants_signs;
    heard_already = !left_behind.empty();
  }
  store->set(sign_key(world.rank), to_text(mine));
  if (!announcement.empty() && !heard_already) store->compareSet("failed", "", announcement);
  std::string found;
  if (heard_already || store->check({"failed"})) found = store->get_to_str("failed");
  const int64_t readers = found.empty() ? 0 : store->add("heard", heard_already ? 0 : 1);
  std::vector<Sign> read;
  for (int rank = 0; all && rank < world.size; ++rank) read.push_back(parse_sign(store->get_to_str(sign_key(rank))));
  const std::lock_guard lock(mutex);
  if (!found.empty()) left_behind = found;
  heard = readers;
  if (all) {
    signs = std::move(read);
    ++signs_read;
  }
}

void Watch::begin(c10d::Store& store, int rank) { store.set(sign_key(rank), to_text(Sign{})); }

Watch::Watch(c10::intrusive_ptr<c10d::Store> store, const World& world, milliseconds timeout)
    : state_(std::make_shared<State>()) {
  state_->world = world;
  state_->store = std::move(store);
  state_->store->setTimeout(timeout);
  state_->timeout = timeout;
  std::thread([state = state_] { state->run(); }).detach();
}

Watch::~Watch() {
  std::unique_lock lock(state_->mutex);
  state_->stop = true;
  state_->changed.notify_all();
  state_->changed.wait_for(lock, std::chrono::seconds(1), [&] { return state_->ended || state_->hangs; });
}

int64_t Watch::count(Channel channel) {
  const std::lock_guard lock(state_->mutex);
  return ++state_->started[static_cast<int>(channel)];
}

std::string Watch::explain(Channel channel, int64_t number, const std::string& error) {
  State& state = *state_;
  const int index = static_cast<int>(channel);
  const double seconds = static_cast<double>(state.timeout.count()) / 1000;
  const bool timed_out = error.find("imed out") != std::string::npos || error.find("imeout") != std::string::npos;
  const auto gone = [&](const std::string& who, bool several) {
    return timed_out ? fmt::format("{} {} not answer ({} s)", who, several ? "do" : "does", seconds)
                     : fmt::format("{} {} gone (connection closed)", who, several ? "have" : "has");
  };
  const std::string holder = state.world.agent_store ? "the launcher's store" : "rank 0";
  std::unique_lock lock(state.mutex);
  const int64_t before = state.signs_read;
  state.wants_signs = true;
  const auto read_once = [&] { return state.signs_read > before || state.lost || !state.left_behind.empty(); };
  state.changed.wait_for(lock, kPatience, read_once);
  const std::vector<Sign> first = state.signs;
  const bool answered = state.signs_read > before;
  if (answered) state.changed.wait_for(lock, kSilent, [&] { return state.lost || !state.left_behind.empty(); });
  state.wants_signs = false;
  if (!state.left_behind.empty()) return state.left_behind;
  if (state.lost) return gone(holder, false);
  if (!answered) {
    state.hangs = true;
    return fmt::format("{} does not answer ({} s)", holder, seconds);
  }
  std::vector<int> silent, late;
  for (int rank = 0; rank < state.world.size; ++rank) {
    if (rank == state.world.rank) continue;
    if (state.signs[rank][0] == first[rank][0])
      silent.push_back(rank);
    else if (state.signs[rank][1 + index] < number)
      late.push_back(rank);
  }
  state.silent = static_cast<int64_t>(silent.size());
  if (!silent.empty()) return gone(ranks_text(silent), silent.size() > 1);
  if (!late.empty())
    return fmt::format("{} {} not come to exchange {} ({}) within {} s", ranks_text(late),
                       late.size() == 1 ? "has" : "have", number, kChannelNames[index], seconds);
  return fmt::format("exchange {} ({}) failed: {}", number, kChannelNames[index], error);
}

void Watch::announce(const std::string& why) {
  State& state = *state_;
  std::unique_lock lock(state.mutex);
  if (state.left_behind.empty()) state.to_announce = why;
  state.changed.notify_all();
  const bool holds_it = state.world.rank == 0 && !state.world.agent_store;
  state.changed.wait_for(lock, kPatience, [&] {
    const bool read = !holds_it || state.heard >= state.world.size - state.silent;
    return state.ended || state.hangs || (!state.left_behind.empty() && read);
  });
}

}  // namespace engram
