#include "engram/dist/communicator.h"

#include <ATen/ATen.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <numeric>
#include <optional>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <utility>

#include "engram/dist/group.h"
#include "engram/dist/meeting.h"
#include "engram/dist/watch.h"

namespace engram {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using WorkPtr = c10::intrusive_ptr<c10d::Work>;
using GroupPtr = c10::intrusive_ptr<c10d::Backend>;

constexpr int64_t kStatusBytes = 1024;  // a code, two bytes of length, a message

void check_tensor(const at::Tensor& tensor, const char* what) {
  TORCH_CHECK(tensor.defined() && tensor.is_contiguous(), what, " of an exchange: wanted a contiguous tensor");
}

void check_splits(const std::vector<int64_t>& splits, const at::Tensor& tensor, int size, const char* what) {
  check_tensor(tensor, what);
  const int64_t sum = std::accumulate(splits.begin(), splits.end(), int64_t{0});
  TORCH_CHECK(splits.size() == static_cast<size_t>(size) && tensor.dim() > 0 && sum == tensor.size(0), what,
              " of an exchange: ", splits.size(), " splits of ", sum, " rows in all, wanted ", size, " of ",
              tensor.dim() > 0 ? tensor.size(0) : 0);
}

int64_t row_bytes(const at::Tensor& tensor) {
  return tensor.size(0) == 0 ? 0 : static_cast<int64_t>(tensor.nbytes()) / tensor.size(0);
}

at::Tensor to_tensor(const Status& status) {
  at::Tensor record = at::zeros({kStatusBytes}, at::kByte);
  auto* bytes = record.mutable_data_ptr<uint8_t>();
  const size_t length = std::min<size_t>(status.message().size(), 1000);
  bytes[0] = static_cast<uint8_t>(status.code());
  bytes[1] = static_cast<uint8_t>(length & 0xFF);
  bytes[2] = static_cast<uint8_t>(length >> 8);
  std::memcpy(bytes + 3, status.message().data(), length);
  return record;
}

Status to_status(const at::Tensor& record, int rank) {
  const auto* bytes = record.const_data_ptr<uint8_t>();
  if (bytes[0] == 0) return {};
  const auto code =
      bytes[0] <= static_cast<int>(StatusCode::kDataLoss) ? bytes[0] : static_cast<int>(StatusCode::kInternal);
  const size_t length = std::min<size_t>(bytes[1] | bytes[2] << 8, 1000);
  return make_status(static_cast<StatusCode>(code), "rank {}: {}", rank,
                     std::string(reinterpret_cast<const char*>(bytes + 3), length));
}

}  // namespace

struct Communicator::Impl {
  World world;
  milliseconds timeout{0};
  c10::intrusive_ptr<c10d::Store> store;  // null with one rank, and so are the rest
  std::array<GroupPtr, kChannels> groups, device_groups;
  std::unique_ptr<Watch> watch;
  std::array<ChannelStats, kChannels> stats;

  std::mutex mutex;
  std::atomic<bool> failed = false;
  Status failure;

  ~Impl();
  template <typename Start>
  Exchange start(Channel channel, at::Tensor out, at::Tensor in, int64_t sent, int64_t received, const Start& begin);
  [[noreturn]] void explain(Channel channel, int64_t number, const std::string& error);
};

struct Exchange::State {
  Communicator::Impl* impl;
  Channel channel;
  int64_t number;
  WorkPtr work;
  at::Tensor out, in;
  at::Tensor total;  // defined: gets the sum of out's parts
};

Exchange::Exchange(std::unique_ptr<State> state) : state_(std::move(state)) {}
Exchange::Exchange(Exchange&&) noexcept = default;
Exchange& Exchange::operator=(Exchange&&) noexcept = default;
Exchange::~Exchange() = default;

bool Exchange::done() const { return !state_ || !state_->work || state_->work->isCompleted(); }

void Exchange::wait() {
  if (!state_ || !state_->work) return;
  const WorkPtr work = std::exchange(state_->work, {});
  const Clock::time_point start = Clock::now();
  std::optional<std::string> error;
  try {
    if (!work->wait()) error = "it was given up";
  } catch (const std::exception& thrown) {
    error = first_line(thrown);
  }
  Communicator::Impl& impl = *state_->impl;
  impl.stats[static_cast<int>(state_->channel)].seconds_waited +=
      std::chrono::duration<double>(Clock::now() - start).count();
  if (error) impl.explain(state_->channel, state_->number, *error);
  if (state_->total.defined()) at::sum_out(state_->total, state_->out, 0);
  state_->out.reset();
  state_->in.reset();
}

// After a failure exchanges may still be on their way, and a group that is destroyed waits for them, up to the
// time-out: a thread does that, and the end of the process ends it.
Communicator::Impl::~Impl() {
  watch.reset();
  if (!failed) return;
  try {
    std::thread([a = std::move(groups), b = std::move(device_groups)]() mutable {
      a = {};
      b = {};
    }).detach();
  } catch (const std::system_error&) {  // no thread: they are destroyed here
  }
}

template <typename Start>
Exchange Communicator::Impl::start(Channel channel, at::Tensor out, at::Tensor in, int64_t sent, int64_t received,
                                   const Start& begin) {
  const int index = static_cast<int>(channel);
  ChannelStats& counted = stats[index];
  ++counted.calls;
  if (world.size == 1) {
    if (in.defined()) out.copy_(in);
    return Exchange(nullptr);
  }
  if (failed) {
    const std::lock_guard lock(mutex);
    throw ExchangeFailed(failure);
  }
  GroupPtr& group = out.is_cuda() ? device_groups[index] : groups[index];
  if (!group) {  // the first tensor on a device
    const auto prefix = c10::make_intrusive<c10d::PrefixStore>(fmt::format("device/{}", kChannelNames[index]), store);
    group = make_nccl_group(prefix, world.rank, world.size, timeout);
  }
  counted.bytes_sent += sent;
  counted.bytes_received += received;
  auto state = std::make_unique<Exchange::State>(
      Exchange::State{this, channel, watch->count(channel), {}, std::move(out), std::move(in), {}});
  state->work = begin(*group, state->out, state->in);
  return Exchange(std::move(state));
}

void Communicator::Impl::explain(Channel channel, int64_t number, const std::string& error) {
  const std::lock_guard lock(mutex);  // other channels' failures wait here and get the same line
  if (!failed) {
    failure = Status(StatusCode::kUnavailable, watch->explain(channel, number, error));
    failed = true;
    watch->announce(failure.message());
  }
  throw ExchangeFailed(failure);
}

Result<std::unique_ptr<Communicator>> Communicator::connect(const World& world, const Hello& hello,
                                                            std::chrono::seconds timeout) {
  if (world.size == 1) return alone();
  if (setenv("TORCH_CPP_LOG_LEVEL", "FATAL", 0) == 0) c10::initLogging();  // c10d's errors are reported in one line
  // c10d looks up the name of every address that it connects to. Where no name server answers that takes 10 s each.
  setenv("RES_OPTIONS", "timeout:1 attempts:1", 0);
  struct Shared {
    std::mutex mutex;
    std::condition_variable changed;
    std::string stage;
    std::optional<Result<std::unique_ptr<Impl>>> result;
  };
  const auto shared = std::make_shared<Shared>();
  const auto set_stage = [shared](std::string stage) {
    const std::lock_guard lock(shared->mutex);
    shared->stage = std::move(stage);
  };
  const auto set_up = [world, hello, timeout, set_stage]() -> Result<std::unique_ptr<Impl>> {
    auto impl = std::make_unique<Impl>();
    impl->world = world;
    impl->timeout = timeout;
    ENGRAM_ASSIGN_OR_RETURN(const Meeting meeting, meet(world, hello, timeout, set_stage));
    impl->store = meeting.store;
    Watch::begin(*impl->store, world.rank);
    set_stage(fmt::format("the ranks could not be connected; this one listens at {}", meeting.address));
    for (int i = 0; i < kChannels; ++i) {
      const auto prefix = c10::make_intrusive<c10d::PrefixStore>(kChannelNames[i], impl->store);
      impl->groups[i] = make_gloo_group(prefix, world.rank, world.size, meeting.address, timeout);
    }
    impl->watch = std::make_unique<Watch>(impl->store, world, timeout);
    return impl;
  };
  // c10d does not always end by itself, so another thread does this, and is left behind where it hangs.
  std::thread([shared, set_up] {
    Result<std::unique_ptr<Impl>> result = [&]() -> Result<std::unique_ptr<Impl>> {
      try {
        return set_up();
      } catch (const std::exception& error) {
        const std::lock_guard lock(shared->mutex);
        return make_status(StatusCode::kUnavailable, "{} ({})", shared->stage, first_line(error));
      }
    }();
    const std::lock_guard lock(shared->mutex);
    shared->result.emplace(std::move(result));
    shared->changed.notify_all();
  }).detach();
  std::unique_lock lock(shared->mutex);
  const milliseconds patience = timeout + std::max<milliseconds>(std::chrono::seconds(1), milliseconds(timeout) / 4);
  if (!shared->changed.wait_for(lock, patience, [&] { return shared->result.has_value(); }))
    return make_status(StatusCode::kUnavailable, "rank {} of {}: {} ({} s)", world.rank, world.size, shared->stage,
                       timeout.count());
  Result<std::unique_ptr<Impl>> result = std::move(*shared->result);
  ENGRAM_RETURN_IF_ERROR(result.status());
  return std::unique_ptr<Communicator>(new Communicator(std::move(*result)));
}

std::unique_ptr<Communicator> Communicator::alone() {
  return std::unique_ptr<Communicator>(new Communicator(std::make_unique<Impl>()));
}

Communicator::Communicator(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Communicator::~Communicator() = default;
int Communicator::rank() const { return impl_->world.rank; }
int Communicator::size() const { return impl_->world.size; }
const ChannelStats& Communicator::stats(Channel channel) const { return impl_->stats[static_cast<int>(channel)]; }

Exchange Communicator::all_to_all(Channel channel, at::Tensor out, std::vector<int64_t> out_splits, at::Tensor in,
                                  std::vector<int64_t> in_splits) {
  check_splits(out_splits, out, size(), "out");
  check_splits(in_splits, in, size(), "in");
  const int64_t sent = (in.size(0) - in_splits[rank()]) * row_bytes(in);
  const int64_t received = (out.size(0) - out_splits[rank()]) * row_bytes(out);
  return impl_->start(channel, std::move(out), std::move(in), sent, received,
                      [&](c10d::Backend& group, at::Tensor& to, at::Tensor& from) {
                        return group.alltoall_base(to, from, out_splits, in_splits);
                      });
}

Exchange Communicator::broadcast(Channel channel, at::Tensor tensor, int root) {
  check_tensor(tensor, "tensor");
  const int64_t bytes = static_cast<int64_t>(tensor.nbytes());
  return impl_->start(channel, std::move(tensor), {}, rank() == root ? bytes * (size() - 1) : 0,
                      rank() == root ? 0 : bytes, [&](c10d::Backend& group, at::Tensor& to, at::Tensor&) {
                        std::vector<at::Tensor> tensors = {to};
                        c10d::BroadcastOptions options;
                        options.rootRank = root;
                        return group.broadcast(tensors, options);
                      });
}

Exchange Communicator::all_gather(Channel channel, at::Tensor out, at::Tensor in) {
  check_tensor(out, "out");
  check_tensor(in, "in");
  TORCH_CHECK(out.numel() == in.numel() * size(), "out of an exchange: ", out.numel(), " numbers, wanted ",
              in.numel() * size());
  const int64_t bytes = static_cast<int64_t>(in.nbytes()) * (size() - 1);
  out = out.view({-1});
  in = in.view({-1});
  return impl_->start(
      channel, std::move(out), std::move(in), bytes, bytes,
      [](c10d::Backend& group, at::Tensor& to, at::Tensor& from) { return group._allgather_base(to, from); });
}

Exchange Communicator::sum(Channel channel, at::Tensor tensor) {
  check_tensor(tensor, "tensor");
  TORCH_CHECK(tensor.scalar_type() == at::kLong || tensor.scalar_type() == at::kDouble,
              "a sum over ranks: wanted int64 or double, got ", tensor.scalar_type());
  // To everybody at once: for few numbers that is the fastest of Gloo's ways.
  const std::vector<int64_t> each(static_cast<size_t>(size()), 1);
  const at::Tensor flat = tensor.view({-1}), mine = flat.expand({size(), flat.numel()}).contiguous();
  Exchange exchange = all_to_all(channel, at::empty_like(mine), each, mine, each);
  if (exchange.state_) exchange.state_->total = flat;
  return exchange;
}

Status Communicator::agree(const Status& mine, std::chrono::seconds patience) {
  if (size() == 1) return mine;
  at::Tensor all = at::empty({size() * kStatusBytes}, at::kByte);
  const int64_t bytes = kStatusBytes * (size() - 1);
  impl_
      ->start(Channel::kControl, all, to_tensor(mine), bytes, bytes,
              [&](c10d::Backend& group, at::Tensor& to, at::Tensor& from) {
                c10d::AllgatherOptions options;
                options.timeout = patience;
                return group._allgather_base(to, from, options);
              })
      .wait();
  for (int other = 0; other < size(); ++other)
    ENGRAM_RETURN_IF_ERROR(to_status(all.narrow(0, other * kStatusBytes, kStatusBytes), other));
  return {};
}

void Communicator::fail(const Status& why) noexcept {
  try {
    const std::lock_guard lock(impl_->mutex);
    if (size() == 1 || impl_->failed) return;
    impl_->failure = make_status(why.code(), "rank {}: {}", rank(), why.message());
    impl_->failed = true;
    impl_->watch->announce(impl_->failure.message());
  } catch (const std::exception&) {  // the others see the connections close
  }
}

}  // namespace engram
