// Which activations of a training step are not kept for its backward pass, but computed again in it.
#pragma once

namespace engram {

enum class Recompute {
  kNone,       // all are kept
  kAttention,  // those of a block's attention, its norm and its projections, are computed again
  kBlocks      // of a block only its input is kept
};

}  // namespace engram
