#include "engram/serve/scheduler.h"

#include <algorithm>

#include "engram/serve/prompt_lookup.h"

namespace engram {

Scheduler::Scheduler(const SchedulerOptions& options, BlockManager& blocks) : options_(options), blocks_(blocks) {
  ENGRAM_CHECK(options_.max_sequences > 0 && options_.max_batched_tokens >= options_.max_sequences,
               "{} sequences, {} tokens a step", options_.max_sequences, options_.max_batched_tokens);
}

void Scheduler::add(std::unique_ptr<Sequence> sequence) { waiting_.push_back(std::move(sequence)); }

void Scheduler::preempt_last() {
  blocks_.release(*running_.back());
  waiting_.push_front(std::move(running_.back()));
  running_.pop_back();
  ++num_preemptions_;
}

bool Scheduler::make_room(Sequence& sequence, int64_t tokens) {
  while (!blocks_.reserve(sequence, tokens)) {
    const bool is_last = running_.back().get() == &sequence;
    ENGRAM_CHECK(!is_last || running_.size() > 1, "sequence {} does not fit into the pages alone", sequence.id);
    preempt_last();
    if (is_last) return false;
  }
  return true;
}

void Scheduler::admit(std::vector<ScheduledChunk>& chunks, int64_t& budget) {
  while (!waiting_.empty() && budget > 0 && num_running() < options_.max_sequences) {
    Sequence& next = *waiting_.front();
    const bool is_new = next.num_generated() == 0;
    blocks_.take_prefix(next);
    const int64_t count = std::min(budget, next.num_left());
    if (!blocks_.reserve(next, next.num_computed + count)) {
      blocks_.release(next);
      return;
    }
    if (is_new) next.num_cached = std::max(next.num_cached, next.num_computed);
    budget -= count;
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
    chunks.push_back({running_.back().get(), count});
  }
}

std::vector<ScheduledChunk> Scheduler::schedule() {
  std::vector<ScheduledChunk> chunks;
  int64_t budget = options_.max_batched_tokens;
  const int64_t preempted_before = num_preemptions_;
  // Those that decode first, so that a long prompt cannot hold them up. Preemption takes sequences off the end, which
  // this loop has not reached yet: in each pass, chunks belong to sequences before `i`.
  for (const bool decoding : {true, false}) {
    for (size_t i = 0; i < running_.size() && budget > 0; ++i) {
      Sequence& sequence = *running_[i];
      if (sequence.is_decoding() != decoding) continue;
      const int64_t count = std::min(budget, sequence.num_left());
      if (!make_room(sequence, sequence.num_computed + count)) break;
      chunks.push_back({&sequence, count});
      budget -= count;
    }
  }
  // A later pass may have preempted a sequence of an earlier one.
  std::erase_if(chunks, [](const ScheduledChunk& chunk) { return chunk.sequence->block_table.empty(); });
  if (num_preemptions_ == preempted_before) admit(chunks, budget);
  if (options_.max_draft_tokens > 0) add_drafts(chunks, budget);
  return chunks;
}

// Drafts take what is left of budget and pages. A traced request has none: its traces are of tokens that stay.
void Scheduler::add_drafts(std::vector<ScheduledChunk>& chunks, int64_t budget) {
  for (ScheduledChunk& chunk : chunks) {
    Sequence& sequence = *chunk.sequence;
    if (!sequence.is_decoding() || sequence.request.trace) continue;
    const int64_t limit = sequence.draft_limit.value_or(options_.max_draft_tokens);
    const int64_t useful = sequence.request.sampling.max_tokens - sequence.num_generated() - 1;
    const std::span<const int32_t> drafts = prompt_lookup(sequence.tokens, std::min({limit, useful, budget}));
    if (drafts.empty() || !blocks_.reserve(sequence, sequence.num_computed + chunk.count + std::ssize(drafts)))
      continue;
    chunk.count += std::ssize(drafts);
    budget -= std::ssize(drafts);
    sequence.add_drafts(drafts);
  }
}

void Scheduler::judge_drafts(Sequence& sequence, int64_t drafts, int64_t accepted) const {
  if (drafts == 0) return;
  const int64_t limit = sequence.draft_limit.value_or(options_.max_draft_tokens);
  if (accepted == drafts) sequence.draft_limit = std::min(2 * limit, options_.max_draft_tokens);
  if (accepted == 0) sequence.draft_limit = std::max<int64_t>(limit / 2, 1);
}

std::vector<UpcomingTokens> Scheduler::upcoming(std::span<const ScheduledChunk> chunks) {
  std::vector<UpcomingTokens> out;
  int64_t budget = options_.max_batched_tokens;
  const auto name = [&](Sequence& sequence, int64_t done) {
    const int64_t end = std::min(sequence.num_tokens(), done + budget);
    if (end <= done) return;
    budget -= end - done;
    const int64_t first = std::max(done, sequence.num_foretold);
    if (first >= end) return;
    out.push_back({&sequence, first, end - first});
    sequence.num_foretold = end;
  };
  for (const ScheduledChunk& chunk : chunks) name(*chunk.sequence, chunk.sequence->num_computed + chunk.count);
  for (auto next = waiting_.begin(); next != waiting_.end() && budget > 0; ++next) name(**next, 0);
  return out;
}

void Scheduler::advance(Sequence& sequence, int64_t count) {
  sequence.num_computed += count;
  blocks_.publish(sequence);
}

std::unique_ptr<Sequence> Scheduler::remove(uint64_t id) {
  const auto is_it = [id](const std::unique_ptr<Sequence>& s) { return s->id == id; };
  std::unique_ptr<Sequence> out;
  if (const auto it = std::find_if(running_.begin(), running_.end(), is_it); it != running_.end()) {
    blocks_.release(**it);
    out = std::move(*it);
    running_.erase(it);
  } else if (const auto at = std::find_if(waiting_.begin(), waiting_.end(), is_it); at != waiting_.end()) {
    out = std::move(*at);
    waiting_.erase(at);
  }
  return out;
}

}  // namespace engram
