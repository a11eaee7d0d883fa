// Which process of how many this one is, as the program that started it says: torchrun, mpirun, srun, or ourselves.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>

#include "engram/core/status.h"

namespace engram {

struct World {
  int rank = 0, size = 1;              // 0 <= rank < size
  int local_rank = 0, local_size = 1;  // the same among the processes of this machine
  std::string host = "127.0.0.1";      // where the ranks meet: rank 0's machine
  int port = 29500;
  bool agent_store = false;  // torchrun holds the store at host:port, and rank 0 is a client too
  int attempt = 0;           // torchrun's count of restarts
};

// What all ranks must have in common. They tell each other before the first exchange.
struct Hello {
  std::string program;     // version and commit
  std::string recipe;      // digest of the resolved recipe
  std::string vocabulary;  // digest of the tokenizer
  int64_t train_tokens = 0;
};

using Variables = std::map<std::string, std::string, std::less<>>;

// The first of these that is there decides: RANK and WORLD_SIZE (torchrun, and what we set ourselves),
// OMPI_COMM_WORLD_* (Open MPI), PMI_* (MPICH, Intel MPI), SLURM_* inside a job step (a batch shell has them too, and
// is no rank). MASTER_ADDR and MASTER_PORT say where the ranks meet; without MASTER_ADDR all must be on one machine.
// One process where there is none of them. kInvalidArgument names the variable: half a set, no number, out of range.
Result<World> world_from_environment(const Variables& variables);

// Every variable that world_from_environment() reads. A child that is to be a process by itself is started without.
std::span<const char* const> launcher_variables();
// Those of this process's environment.
Variables launcher_environment();
// Removes them from it: this process, and what it starts, are no ranks. Before other threads run.
void leave_world();

}  // namespace engram
