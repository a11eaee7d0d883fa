#include "bench/two_hosts.h"

#include <unistd.h>

#include "bench/process.h"

namespace engram::bench {
namespace {

std::string address(int host) { return fmt::format("10.213.0.{}", host + 1); }

}  // namespace

std::string TwoHosts::name(int host) const { return fmt::format("engram-bench-{}-{}", getpid(), host); }

Result<std::unique_ptr<TwoHosts>> TwoHosts::create(int megabits) {
  std::unique_ptr<TwoHosts> hosts(new TwoHosts);
  const std::string a = hosts->name(0), b = hosts->name(1);
  std::string commands = fmt::format(
      "ip netns add {0} && ip netns add {1} && ip link add veth0 netns {0} type veth peer name veth0 netns {1}", a, b);
  for (int host : {0, 1}) {
    const std::string inside = " && ip -n " + hosts->name(host);
    commands +=
        fmt::format("{0} addr add {1}/24 dev veth0{0} link set lo up{0} link set veth0 up", inside, address(host));
    commands += fmt::format(" && tc -n {} qdisc add dev veth0 root tbf rate {}mbit burst 1mb latency 400ms",
                            hosts->name(host), megabits);
  }
  if (!run_commands({commands}).ok())
    return make_status(
        StatusCode::kUnavailable,
        "two hosts with a link of {} Mbit/s: cannot be made; wanted root, ip, tc, and a kernel with network "
        "namespaces, veth and tbf (their messages are above)",
        megabits);
  return hosts;
}

TwoHosts::~TwoHosts() {
  for (int host : {0, 1}) (void)run_commands({"ip netns del " + name(host) + " 2>/dev/null"});
}

std::string TwoHosts::as_rank(int rank) const {
  return fmt::format(
      "ip netns exec {} env RANK={} WORLD_SIZE=2 LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 MASTER_ADDR={} MASTER_PORT=29500 ",
      name(rank), rank, address(0));
}

}  // namespace engram::bench
