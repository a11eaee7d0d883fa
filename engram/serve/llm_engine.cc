#include "engram/serve/llm_engine.h"

#include <algorithm>
#include <set>

#include "engram/core/checked_math.h"
#include "engram/core/json.h"
#include "engram/core/machine.h"
#include "engram/model/decode/sampler.h"

// What holds between steps
//
//   1. requests_ and the scheduler know the same requests. A request leaves both in emit(), with a finish
//      reason; the Sequence and the Running that emit() was called with are gone then.
//   2. Sequence::tokens are the prompt and the tokens that the client has been told of. Drafts are among them only
//      while a step runs: finish() takes them off, and so does step() when rows cannot be read.
//   3. Sequence::num_computed counts the tokens whose keys, values and memory are right in the pages. finish() advances
//      it by the chunk's own tokens, then by one for each draft that proves right. Pages beyond it may hold anything: a
//      wrong draft, or a chunk whose rows could not be read, is overwritten when these positions run again.
//   4. A draft is right when it is the token that is chosen anyway, from the logits after the tokens before it. The
//      first wrong one ends the comparison, because the logits after it belong to another text.
//   5. Random numbers are drawn once for each token, in the order of tokens. So drafts and batches do not change them.
//   6. By 3, a step that throws has changed nothing that another request reads: it ends its own requests, and others
//      run again. Only the scheduler and the block manager must not throw halfway; where they do, abandon() is left.
//   7. Every request gets exactly one last event, also when its rows, the model or the engine itself fails. A client
//      whose callback throws is taken for gone.

namespace engram {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kRateWindowSeconds = 5;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

int64_t max_context(const LoadedModel& model, const EngineOptions& options) {
  const int64_t longest = model.config.max_position_embeddings;
  return options.max_context == 0 ? longest : std::min(options.max_context, longest);
}

EngineInfo make_info(const LoadedModel& model, const EngineOptions& options, const ServedTables& tables) {
  const ModelConfig& c = model.config;
  EngineInfo info;
  info.model = options.model_name;
  info.created = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  info.vocab_size = c.vocab_size;
  info.max_context = static_cast<int>(max_context(model, options));
  info.bos = model.special.bos;
  info.eos = model.special.eos;
  if (c.memory != MemoryKind::kNone) {
    info.layer_ids = c.engram.layer_ids;
    info.max_ngram_size = c.engram.max_ngram_size;
    info.n_heads = c.engram.n_heads;
    std::set<std::string> placements;
    for (int layer = 0; layer < c.num_memory_layers(); ++layer) placements.insert(tables.placement(layer));
    info.placement = fmt::format("{}", fmt::join(placements, ", "));
    for (const ServedOverlay& overlay : tables.overlays())
      info.overlays.push_back({overlay.name(), overlay.num_rows(), overlay.bytes()});
  }
  info.streams = c.engram_branch_gates ? c.hc_mult : 1;
  return info;
}

// Pages for the bytes given, but not more than all sequences at their longest need.
Result<int64_t> count_blocks(const LoadedModel& model, const EngineOptions& options) {
  const ModelConfig& config = model.config;
  const int64_t block_bytes = saturating_product(
      {PagedCache::bytes_per_token(config, page_dtype(model.model->parameters().front())), options.block_size});
  const int64_t context = max_context(model, options);
  const int64_t longest = (context + options.block_size - 1) / options.block_size;
  const int64_t blocks =
      std::min(options.kv_cache_bytes / block_bytes, saturating_product({longest, options.scheduler.max_sequences}));
  if (blocks < longest) {
    return Status(StatusCode::kResourceExhausted,
                  fmt::format("kv_cache_bytes: got {}, wanted at least {}: one sequence of {} tokens",
                              options.kv_cache_bytes, longest * block_bytes, context));
  }
  const int64_t available = available_memory_bytes();
  if (model.model->parameters().front().is_cpu() && blocks > available / block_bytes) {
    return make_status(StatusCode::kResourceExhausted,
                       "kv_cache_bytes: got {}, of which {} sequences can use {}; this process can take {} bytes more",
                       options.kv_cache_bytes, options.scheduler.max_sequences, blocks * block_bytes, available);
  }
  return blocks;
}

// What is sampled, unless the request says what comes.
int32_t next_token(const Sequence& sequence, int32_t sampled) {
  const auto at = static_cast<size_t>(sequence.num_generated());
  return at < sequence.request.forced.size() ? sequence.request.forced[at] : sampled;
}

Status not_finite() { return Status(StatusCode::kInternal, "the model's logits are not finite"); }

}  // namespace

struct LLMEngine::Running {
  Running(Sequence& s, std::shared_ptr<const Tokenizer> tokenizer, Engine::OnEvent callback)
      : sequence(s),
        on_event(std::move(callback)),
        text(std::move(tokenizer), s.request.sampling.stop),
        sampler(s.request.sampling) {}
  Sequence& sequence;
  Engine::OnEvent on_event;
  OutputText text;
  Sampler sampler;
  SeenTokens seen;                          // read where there are penalties
  std::vector<TokenTrace> trace;            // not told yet
  int64_t num_traced = 0;                   // tokens, told or not: a preempted sequence runs them again
  std::vector<TokenScore> prompt_logprobs;  // not told yet
  Clock::time_point submitted = Clock::now(), last_token;
};

Status EngineOptions::validate() const {
  if (block_size < 1) return invalid_argument("block_size: got {}, wanted at least 1", block_size);
  if (max_context < 0) return invalid_argument("max_context: got {}, wanted 0 (the model's) or more", max_context);
  if (max_waiting < 1) return invalid_argument("max_waiting: got {}, wanted at least 1", max_waiting);
  if (scheduler.max_sequences < 1) {
    return invalid_argument("max_sequences: got {}, wanted at least 1", scheduler.max_sequences);
  }
  if (scheduler.max_draft_tokens < 0) {
    return invalid_argument("max_draft_tokens: got {}, wanted 0 or more", scheduler.max_draft_tokens);
  }
  if (scheduler.max_batched_tokens < scheduler.max_sequences) {
    return invalid_argument("max_batched_tokens: got {}, wanted at least max_sequences, {}",
                            scheduler.max_batched_tokens, scheduler.max_sequences);
  }
  return {};
}

Result<std::unique_ptr<LLMEngine>> LLMEngine::create(Env& env, const LoadedModel& model, const EngineOptions& options) {
  ENGRAM_RETURN_IF_ERROR(options.validate());
  ENGRAM_RETURN_IF_ERROR(count_blocks(model, options).status());  // before a table is read
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<ServedTables> tables,
                          ServedTables::open(env, model, options.tables, options.overlays));
  return create(model, options, std::move(tables));
}

Result<std::unique_ptr<LLMEngine>> LLMEngine::create(const LoadedModel& model, const EngineOptions& options,
                                                     std::shared_ptr<const ServedTables> tables) {
  ENGRAM_RETURN_IF_ERROR(options.validate());
  ENGRAM_ASSIGN_OR_RETURN(const int64_t blocks, count_blocks(model, options));
  try {
    return std::unique_ptr<LLMEngine>(new LLMEngine(model, options, std::move(tables), blocks));
  } catch (const std::exception& error) {  // a device that has less memory than it said
    return Status(StatusCode::kResourceExhausted, fmt::format("{} pages of {} tokens: {}", blocks, options.block_size,
                                                              internal_error(error).message()));
  }
}

LLMEngine::LLMEngine(const LoadedModel& model, const EngineOptions& options, std::shared_ptr<const ServedTables> tables,
                     int64_t num_blocks)
    : model_(model),
      options_(options),
      info_(make_info(model, options, *tables)),
      tables_(std::move(tables)),
      blocks_(num_blocks, options.block_size, options.prefix_cache),
      scheduler_(options.scheduler, blocks_),
      runner_(model, *tables_, num_blocks, options.block_size, options.overlap_reads) {}

LLMEngine::~LLMEngine() = default;

Status LLMEngine::check(const GenerationRequest& request) const {
  ENGRAM_RETURN_IF_ERROR(request.sampling.validate());
  if (request.prompt.empty()) return invalid_argument("prompt: got no tokens, wanted at least one");
  for (const auto* tokens : {&request.prompt, &request.forced}) {
    for (size_t i = 0; i < tokens->size(); ++i) {
      if (const int32_t id = (*tokens)[i]; id < 0 || id >= info_.vocab_size) {
        return invalid_argument("{}: token {} is {}, wanted 0 .. {}", tokens == &request.prompt ? "prompt" : "forced",
                                i, id, info_.vocab_size - 1);
      }
    }
  }
  for (const std::string& name : request.overlays) {
    if (tables_->find_overlay(name) == nullptr)
      return invalid_argument("overlay: got {}, wanted one that was loaded at the start", quote_text(name));
  }
  for (const auto& [id, bias] : request.sampling.logit_bias) {
    if (id < 0 || id >= info_.vocab_size) {
      return invalid_argument("logit_bias: got token {}, wanted 0 .. {}", id, info_.vocab_size - 1);
    }
  }
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  if (prompt + request.sampling.max_tokens > info_.max_context) {
    return invalid_argument("prompt of {} tokens and max_tokens {}: together wanted at most the context of {}", prompt,
                            request.sampling.max_tokens, info_.max_context);
  }
  return {};
}

void LLMEngine::add(uint64_t id, GenerationRequest request, Engine::OnEvent on_event) {
  auto sequence = std::make_unique<Sequence>(id, std::move(request));
  requests_.emplace(id, std::make_unique<Running>(*sequence, model_.tokenizer, std::move(on_event)));
  try {
    scheduler_.add(std::move(sequence));
  } catch (...) {
    requests_.erase(id);
    throw;
  }
}

void LLMEngine::cancel(uint64_t id) { end(id, FinishReason::kCancelled, Status()); }

void LLMEngine::cancel_all() {
  while (!requests_.empty()) cancel(requests_.begin()->first);
}

bool LLMEngine::has_work() const { return !requests_.empty(); }

void LLMEngine::step() {
  const Clock::time_point start = Clock::now();
  const std::vector<ScheduledChunk> chunks = scheduler_.schedule();
  if (chunks.empty()) return;
  StepOutput output;
  try {
    output = runner_.run(chunks, scheduler_.upcoming(chunks));
  } catch (const std::exception& error) {
    for (const ScheduledChunk& chunk : chunks) end(chunk.sequence->id, FinishReason::kError, internal_error(error));
    return;
  }
  int64_t accepted = 0;
  for (size_t i = 0; i < chunks.size(); ++i) {
    const uint64_t id = chunks[i].sequence->id;
    try {
      accepted += take(chunks[i], output, i);
    } catch (const std::exception& error) {
      end(id, FinishReason::kError, internal_error(error));
    }
  }
  metrics_.last_batch = static_cast<int64_t>(chunks.size());
  count_step(output, seconds_since(start), accepted);
}

int64_t LLMEngine::take(const ScheduledChunk& chunk, StepOutput& output, size_t index) {
  Sequence& sequence = *chunk.sequence;
  if (output.failures[index].ok()) {
    Running& running = *requests_.at(sequence.id);
    for (int64_t at = sequence.num_computed; TokenTrace & trace : output.traces[index]) {
      if (at++ < running.num_traced) continue;
      running.trace.push_back(std::move(trace));
      ++running.num_traced;
    }
    for (TokenScore& score : output.prompt_logprobs[index]) {
      if (score.token < 0) {
        end(sequence.id, FinishReason::kError, not_finite());
        return 0;
      }
      running.prompt_logprobs.push_back(std::move(score));
      ++sequence.num_scored;
    }
    return finish(chunk, output.next[index]);
  }
  if (sequence.num_drafts > 0) {  // the row may be a draft's, which nobody has asked for
    sequence.take_drafts();
    sequence.rows.forget_from(sequence.num_tokens());
    sequence.draft_limit = 0;
  } else {
    end(sequence.id, FinishReason::kError, output.failures[index]);
  }
  return 0;
}

void LLMEngine::abandon(const Status& error) noexcept {
  for (const auto& [id, running] : requests_) {
    try {
      GenerationEvent event;
      event.finish = FinishReason::kError;
      event.error = error;
      running->on_event(event);
    } catch (const std::exception&) {  // its deadline ends it
    }
  }
}

int64_t LLMEngine::finish(const ScheduledChunk& chunk, std::span<const NextToken> next) {
  Sequence& sequence = *chunk.sequence;
  const std::vector<int32_t> drafts = sequence.take_drafts();
  const int64_t count = chunk.count - std::ssize(drafts);
  metrics_.prompt_tokens +=
      static_cast<uint64_t>(std::clamp<int64_t>(sequence.num_prompt() - sequence.num_computed, 0, count));
  metrics_.draft_tokens += drafts.size();
  scheduler_.advance(sequence, count);
  if (sequence.num_left() == 0 && sequence.request.sampling.max_tokens == 0) {
    end(sequence.id, FinishReason::kLength, Status());
    return 0;
  }
  if (next.empty()) return 0;
  size_t right = 0;  // drafts that were
  while (accept(sequence, next[right])) {
    if (right == drafts.size() || sequence.tokens.back() != drafts[right]) {
      scheduler_.judge_drafts(sequence, std::ssize(drafts), static_cast<int64_t>(right));
      sequence.rows.forget_from(sequence.num_computed);
      break;
    }
    scheduler_.advance(sequence, 1);
    ++right;
    ++metrics_.accepted_draft_tokens;
  }
  return static_cast<int64_t>(right) + 1;
}

bool LLMEngine::accept(Sequence& sequence, const NextToken& next) {
  Running& running = *requests_.at(sequence.id);
  const SamplingParams& sampling = sequence.request.sampling;
  if (next.likeliest ? *next.likeliest < 0 : !all_finite(next.logits)) {
    end(sequence.id, FinishReason::kError, not_finite());
    return false;
  }
  GenerationEvent event;
  event.token = next.likeliest ? next_token(sequence, *next.likeliest) : sample(running, next.logits, event);
  sequence.tokens.push_back(event.token);
  const bool at_eos = model_.special.ends_text(event.token) && !sampling.ignore_eos;
  event.text = running.text.push(event.token);
  if (at_eos || running.text.stopped()) {
    event.finish = FinishReason::kStop;
  } else if (sequence.num_generated() >= sampling.max_tokens) {
    event.finish = FinishReason::kLength;
  }
  if (event.finish != FinishReason::kNone) event.text += running.text.finish();

  DurationHistogram& waited = sequence.num_generated() == 1 ? metrics_.time_to_first_token : metrics_.inter_token;
  waited.record(seconds_since(sequence.num_generated() == 1 ? running.submitted : running.last_token));
  running.last_token = Clock::now();
  return emit(running, std::move(event));
}

// Log probabilities are the model's own, before bias, penalties and temperature.
int32_t LLMEngine::sample(Running& running, std::span<float> logits, GenerationEvent& event) {
  const Sequence& sequence = running.sequence;
  const SamplingParams& sampling = sequence.request.sampling;
  std::vector<float> own;
  if (sampling.logprobs >= 0) own.assign(logits.begin(), logits.end());
  for (const auto& [token, bias] : sampling.logit_bias) logits[static_cast<size_t>(token)] += bias;
  if (sampling.penalties.any()) {
    running.seen.read(sequence.tokens, static_cast<size_t>(sequence.num_prompt()));
    apply_penalties(sampling.penalties, running.seen, logits);
  }
  const int32_t token = next_token(sequence, running.sampler.sample(logits));
  if (!own.empty()) event.logprob = score_token(own, token, sampling.logprobs);
  return token;
}

bool LLMEngine::emit(Running& running, GenerationEvent event) {
  Sequence& sequence = running.sequence;
  event.prompt_tokens = sequence.num_prompt();
  event.cached_tokens = sequence.num_cached;
  event.completion_tokens = sequence.num_generated();
  event.trace = std::exchange(running.trace, {});
  event.prompt_logprobs = std::exchange(running.prompt_logprobs, {});
  FinishReason reason = event.finish;
  try {
    if (running.on_event) running.on_event(event);
  } catch (const std::exception&) {  // nobody hears of what comes: it need not be computed
    reason = FinishReason::kError;
  }
  if (reason == FinishReason::kNone) return true;
  const bool failed = reason == FinishReason::kError, cancelled = reason == FinishReason::kCancelled;
  ++(failed ? metrics_.failed : cancelled ? metrics_.cancelled : metrics_.finished);
  metrics_.cached_prompt_tokens += static_cast<uint64_t>(sequence.num_cached);
  metrics_.request.record(seconds_since(running.submitted));
  const uint64_t id = sequence.id;
  const std::unique_ptr<Sequence> removed = scheduler_.remove(id);  // `sequence` and `running` end here
  requests_.erase(id);
  return false;
}

void LLMEngine::end(uint64_t id, FinishReason reason, const Status& error) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) return;
  // A busy device is not trouble that stays.
  if (reason == FinishReason::kError && error.code() != StatusCode::kUnavailable) health_ = error;
  GenerationEvent event;
  event.finish = reason;
  event.error = error;
  event.text = found->second->text.finish();
  emit(*found->second, std::move(event));
}

void LLMEngine::count_step(const StepOutput& output, double seconds, int64_t accepted) {
  ++metrics_.steps;
  metrics_.step_seconds += seconds;
  metrics_.stall_seconds += output.stall_seconds;
  metrics_.row_bytes += static_cast<uint64_t>(output.row_bytes);
  metrics_.generated_tokens += static_cast<uint64_t>(accepted);
  const Clock::time_point now = Clock::now();
  recent_.emplace_back(now, accepted);
  recent_tokens_ += accepted;
  while (std::chrono::duration<double>(now - recent_.front().first).count() > kRateWindowSeconds) {
    recent_tokens_ -= recent_.front().second;
    recent_.pop_front();
  }
}

EngineMetrics LLMEngine::metrics() const {
  EngineMetrics out = metrics_;
  out.running = scheduler_.num_running();
  out.waiting = scheduler_.num_waiting();
  out.preemptions = static_cast<uint64_t>(scheduler_.num_preemptions());
  out.kv_blocks_total = blocks_.num_blocks();
  out.kv_blocks_used = blocks_.num_blocks() - blocks_.num_free();
  out.tokens_per_second = static_cast<double>(recent_tokens_) / kRateWindowSeconds;
  return out;
}

}  // namespace engram
