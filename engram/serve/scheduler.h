// Scheduler: which tokens of which sequences run in the next step.
//
// Continuous batching: a step holds one token of every sequence that decodes and, up to a budget of tokens, chunks of
// prompts. Sequences are admitted in the order of arrival. When pages run out, the sequence admitted last is
// preempted: it gives its pages back, waits at the head of the queue and runs again from its tokens. The rest of
// the budget goes to drafts: guesses at the next tokens of those that decode, which the step checks. One thread.
#pragma once
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "engram/serve/block_manager.h"
#include "engram/serve/sequence.h"

namespace engram {

struct SchedulerOptions {
  int64_t max_sequences = 64;        // that run at the same time
  int64_t max_batched_tokens = 512;  // of one step; at least max_sequences
  int64_t max_draft_tokens = 0;      // of one sequence in a step; 0: no speculative decoding
};

// The tokens [sequence->num_computed, sequence->num_computed + count) of one sequence, its drafts included.
struct ScheduledChunk {
  Sequence* sequence = nullptr;
  int64_t count = 0;
  // The logits of its last known token, and of each draft after it, give a next one, where one is asked for.
  bool samples() const {
    return count == sequence->num_left() + sequence->num_drafts && sequence->request.sampling.max_tokens > 0;
  }
};

// The tokens [first, first + count) of one sequence.
struct UpcomingTokens {
  Sequence* sequence = nullptr;
  int64_t first = 0, count = 0;
};

class Scheduler {
 public:
  Scheduler(const SchedulerOptions& options, BlockManager& blocks);

  // REQUIRES: all its tokens fit into the pages when it is alone.
  void add(std::unique_ptr<Sequence> sequence);
  // Empty when nothing waits or runs. The chunks' pages are reserved. Sequences may have drafts, to be taken back
  // (Sequence::take_drafts) before the next call.
  std::vector<ScheduledChunk> schedule();
  // Known tokens that are likely to run soon after the step of `chunks`: what follows in the prompts under way, then
  // the prompts that wait, whether or not there is a place for them yet; a step's budget in all. No token is named
  // twice. For hints.
  std::vector<UpcomingTokens> upcoming(std::span<const ScheduledChunk> chunks);
  // The next `count` known tokens of a sequence are computed.
  void advance(Sequence& sequence, int64_t count);
  // `accepted` of `drafts` were right: the next step has more or fewer of this sequence.
  void judge_drafts(Sequence& sequence, int64_t drafts, int64_t accepted) const;
  // Takes a sequence out, running or waiting; its pages are free again. Null: unknown.
  std::unique_ptr<Sequence> remove(uint64_t id);

  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  int64_t num_waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t num_preemptions() const { return num_preemptions_; }

 private:
  // Reserves pages for a running sequence's chunk, preempting those admitted after it. False: it was preempted itself.
  bool make_room(Sequence& sequence, int64_t tokens);
  void preempt_last();
  void admit(std::vector<ScheduledChunk>& chunks, int64_t& budget);
  void add_drafts(std::vector<ScheduledChunk>& chunks, int64_t budget);

  SchedulerOptions options_;
  BlockManager& blocks_;
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;  // in the order of their admission
  int64_t num_preemptions_ = 0;
};

}  // namespace engram
