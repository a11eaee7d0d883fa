#include "engram/model/io/spread_tensor.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace engram {
namespace {

class Spread {
 public:
  Spread(Communicator& ranks, Channel channel, torch::Tensor local, std::vector<int64_t> begins)
      : ranks_(ranks), channel_(channel), local_(local.detach()), begins_(std::move(begins)) {}

  torch::Tensor read(int64_t begin, int64_t end) {
    const torch::Tensor own = own_rows(begin, end).contiguous();
    if (own_count(begin, end, 0) == end - begin) return root() ? own : torch::Tensor();
    const torch::Tensor all = room(root() ? end - begin : 0);
    ranks_.all_to_all(channel_, all, all_counts(begin, end), own, to_root(own.size(0))).wait();
    return root() ? all : torch::Tensor();
  }
  void write(int64_t begin, int64_t end, const torch::Tensor& rows) {
    torch::Tensor home = own_rows(begin, end), own = rows;
    if (own_count(begin, end, 0) != end - begin) {
      own = room(home.size(0));
      const torch::Tensor all = root() ? rows.contiguous() : room(0);
      ranks_.all_to_all(channel_, own, to_root(own.size(0)), all, all_counts(begin, end)).wait();
    }
    if (home.numel() > 0) home.copy_(own);
  }

 private:
  bool root() const { return ranks_.rank() == 0; }
  int64_t first(int rank, int64_t row) const {  // the first of a rank's rows that is not before `row`, or its end
    return std::clamp(row, begins_[static_cast<size_t>(rank)], begins_[static_cast<size_t>(rank) + 1]);
  }
  int64_t own_count(int64_t begin, int64_t end, int rank) const { return first(rank, end) - first(rank, begin); }
  torch::Tensor own_rows(int64_t begin, int64_t end) const {
    const int rank = ranks_.rank();
    const int64_t count = own_count(begin, end, rank);
    return count > 0 ? local_.narrow(0, first(rank, begin) - begins_[static_cast<size_t>(rank)], count) : room(0);
  }
  torch::Tensor room(int64_t rows) const {
    std::vector<int64_t> sizes = local_.sizes().vec();
    sizes[0] = rows;
    return torch::empty(sizes, local_.scalar_type());
  }
  // What rank 0 has of each rank in an exchange, and each rank of rank 0.
  std::vector<int64_t> all_counts(int64_t begin, int64_t end) const {
    std::vector<int64_t> counts(static_cast<size_t>(ranks_.size()));
    for (int rank = 0; root() && rank < ranks_.size(); ++rank)
      counts[static_cast<size_t>(rank)] = own_count(begin, end, rank);
    return counts;
  }
  std::vector<int64_t> to_root(int64_t count) const {
    std::vector<int64_t> counts(static_cast<size_t>(ranks_.size()));
    counts[0] = count;
    return counts;
  }

  Communicator& ranks_;
  Channel channel_;
  torch::Tensor local_;
  std::vector<int64_t> begins_;
};

}  // namespace

std::vector<int64_t> owned_rows(int ranks, int owner, int64_t rows) {
  std::vector<int64_t> begins(static_cast<size_t>(ranks) + 1, rows);
  std::fill_n(begins.begin(), owner + 1, 0);
  return begins;
}

StreamedTensor spread_tensor(Communicator& ranks, Channel channel, std::string name, torch::Tensor local,
                             std::vector<int64_t> begins) {
  if (ranks.size() == 1) return whole_tensor(std::move(name), local);
  TORCH_CHECK(std::ssize(begins) == ranks.size() + 1, name, ": got the first rows of ", begins.size() - 1,
              " ranks, wanted ", ranks.size());
  std::vector<int64_t> shape = local.sizes().vec();
  shape[0] = begins.back();
  const auto spread = std::make_shared<Spread>(ranks, channel, local, std::move(begins));
  return {std::move(name), local.scalar_type(), std::move(shape),
          [spread](int64_t begin, int64_t end) { return spread->read(begin, end); },
          [spread](int64_t begin, int64_t end, const torch::Tensor& rows) { spread->write(begin, end, rows); }};
}

}  // namespace engram
