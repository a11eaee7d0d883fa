// A tensor of a checkpoint whose rows lie with several ranks: each has consecutive ones, in the order of ranks. A rank
// may have none, and one may have all.
#pragma once
#include <string>
#include <vector>

#include "engram/dist/communicator.h"
#include "engram/model/io/streamed_tensor.h"

namespace engram {

// Rank r has the rows [begins[r], begins[r + 1]); of a rank without rows only the type and the other dimensions of
// `local` count. Its read and write are exchanges on `channel`, except for pieces that rank 0 has whole. `ranks`
// outlives it.
StreamedTensor spread_tensor(Communicator& ranks, Channel channel, std::string name, torch::Tensor local,
                             std::vector<int64_t> begins);
// `begins` of a tensor that one rank has.
std::vector<int64_t> owned_rows(int ranks, int owner, int64_t rows);

}  // namespace engram
