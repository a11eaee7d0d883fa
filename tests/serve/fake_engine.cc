#include "tests/serve/fake_engine.h"

#include <algorithm>
#include <cmath>

#include "engram/serve/output_text.h"

namespace engram {
namespace {

Tokenizer byte_tokenizer() {
  return value_or_throw(Tokenizer::parse(Tokenizer::byte_level_json({"<|endoftext|>"}), "bytes"));
}

}  // namespace

struct FakeEngine::Sequence {
  uint64_t id = 0;
  GenerationRequest request;
  OnEvent on_event;
  std::vector<int32_t> tokens;  // prompt and generated ones
  std::string prompt;
  std::unique_ptr<OutputText> text;
  size_t traced = 0;
  bool told = false;  // it had an event
  bool cancelled = false;
  std::chrono::steady_clock::time_point begin = std::chrono::steady_clock::now();
  int64_t generated() const { return static_cast<int64_t>(tokens.size() - request.prompt.size()); }
};

FakeEngine::FakeEngine(FakeEngineOptions options) : options_(std::move(options)), tokenizer_(byte_tokenizer()) {
  info_.model = "fake-model";
  info_.created = 1'700'000'000;
  info_.vocab_size = tokenizer_.vocab_size();
  info_.max_context = options_.max_context;
  info_.bos = info_.eos = 0;
  if (options_.memory) {
    info_.layer_ids = {1, 4};
    info_.streams = 2;
    info_.max_ngram_size = 3;
    info_.n_heads = 2;
    info_.overlays = {{"paris", 8, 72}, {"rome", 16, 144}};
    info_.placement = options_.resident ? "resident" : "cache over drive";
    for (const int layer : info_.layer_ids) {
      if (options_.resident) break;
      StoreStats stats;
      stats.tiers = {TierStats{.name = "cache"}, TierStats{.name = "drive"}};
      metrics_.stores.emplace_back(layer, stats);
    }
  }
  metrics_.kv_blocks_total = 256;
  for (int32_t id = 1; id < tokenizer_.vocab_size(); ++id) {
    byte_ids_[static_cast<unsigned char>(tokenizer_.token_bytes(id)[0])] = id;
  }
  thread_ = std::thread([this] { run(); });
}

FakeEngine::~FakeEngine() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    for (auto& [id, sequence] : sequences_) sequence->cancelled = true;
  }
  changed_.notify_all();
  thread_.join();
}

Result<uint64_t> FakeEngine::submit(GenerationRequest request, OnEvent on_event) {
  ENGRAM_RETURN_IF_ERROR(request.sampling.validate());
  const std::lock_guard lock(mutex_);
  if (draining_) return Status(StatusCode::kUnavailable, "the engine is draining");
  if (sequences_.size() >= options_.max_requests) {
    return make_status(StatusCode::kResourceExhausted, "{} requests are waiting, no more are taken", sequences_.size());
  }
  auto sequence = std::make_shared<Sequence>();
  sequence->id = next_id_++;
  sequence->tokens = request.prompt;
  sequence->prompt = value_or_throw(tokenizer_.decode(request.prompt));
  if (sequence->prompt.find("THROW") != std::string::npos) throw std::bad_alloc();
  last_request_ = request;
  metrics_.prompt_tokens += request.prompt.size();
  sequence->request = std::move(request);
  const std::shared_ptr<const Tokenizer> shared(std::shared_ptr<void>(), &tokenizer_);  // owned here, not there
  sequence->text = std::make_unique<OutputText>(shared, sequence->request.sampling.stop);
  sequence->on_event = std::move(on_event);
  sequences_[sequence->id] = sequence;
  changed_.notify_all();
  return sequence->id;
}

void FakeEngine::cancel(uint64_t id) {
  const std::lock_guard lock(mutex_);
  if (const auto found = sequences_.find(id); found != sequences_.end()) found->second->cancelled = true;
}

void FakeEngine::drain() {
  std::unique_lock lock(mutex_);
  draining_ = true;
  changed_.wait(lock, [this] { return sequences_.empty(); });
}

Status FakeEngine::health() const {
  const std::lock_guard lock(mutex_);
  return health_;
}

EngineMetrics FakeEngine::metrics() const {
  const std::lock_guard lock(mutex_);
  EngineMetrics out = metrics_;
  out.running = static_cast<int64_t>(sequences_.size());
  out.kv_blocks_used = std::min<int64_t>(out.running * 4, out.kv_blocks_total);
  return out;
}

GenerationRequest FakeEngine::last_request() const {
  const std::lock_guard lock(mutex_);
  return last_request_;
}

bool FakeEngine::wait_until_idle(std::chrono::milliseconds limit) const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, limit, [this] { return sequences_.empty(); });
}

void FakeEngine::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || !sequences_.empty(); });
    if (sequences_.empty()) return;
    std::vector<std::shared_ptr<Sequence>> batch;
    for (const auto& [id, sequence] : sequences_) batch.push_back(sequence);
    metrics_.last_batch = static_cast<int64_t>(batch.size());
    ++metrics_.steps;
    metrics_.step_seconds += 1e-6 * static_cast<double>(options_.step.count());
    metrics_.stall_seconds += 1e-7 * static_cast<double>(options_.step.count());
    for (const auto& sequence : batch) {
      if (step(*sequence)) sequences_.erase(sequence->id);
    }
    changed_.notify_all();
    lock.unlock();
    std::this_thread::sleep_for(options_.step);
    lock.lock();
  }
}

GenerationEvent FakeEngine::end_of(const Sequence& sequence, FinishReason reason, Status error) const {
  GenerationEvent event;
  event.finish = reason;
  event.error = std::move(error);
  event.prompt_tokens = static_cast<int64_t>(sequence.request.prompt.size());
  event.completion_tokens = sequence.generated();
  return event;
}

TokenTrace FakeEngine::trace_of(const Sequence& sequence, size_t position) const {
  TokenTrace trace{sequence.tokens[position], {}};
  for (const int layer : info_.layer_ids) {
    LayerTrace out;
    out.layer_id = layer;
    for (int m = 0; m < info_.streams; ++m) {
      const double wave = std::sin(0.7 * static_cast<double>(position) + layer + 2 * m);
      out.gates.push_back(sequence.request.memory_off ? 0.0F : static_cast<float>(0.5 + 0.45 * wave));
    }
    for (int row = 0; row < (info_.max_ngram_size - 1) * info_.n_heads && !sequence.request.memory_off; ++row) {
      out.row_ids.push_back(1000 * row + static_cast<int64_t>(sequence.tokens[position]) * 7 % 1000);
      out.tiers.push_back((position + static_cast<size_t>(row)) % 5 == 0 ? "drive" : "cache");
    }
    trace.layers.push_back(std::move(out));
  }
  return trace;
}

void FakeEngine::add_traces(Sequence& sequence, GenerationEvent& event) {
  for (; sequence.traced < sequence.tokens.size(); ++sequence.traced) {
    event.trace.push_back(trace_of(sequence, sequence.traced));
    for (auto& [layer, stats] : metrics_.stores) {
      stats.rows += 4;
      stats.tiers[0].hits += 3;
      ++stats.tiers[0].misses;
      ++stats.tiers[1].hits;
    }
  }
}

// The next byte of the canned text; a seed begins elsewhere.
int32_t FakeEngine::next_token(const Sequence& sequence) const {
  const SamplingParams& sampling = sequence.request.sampling;
  for (const auto& [token, bias] : sampling.logit_bias) {
    if (bias == 100) return token;
  }
  const auto begin = static_cast<uint64_t>(sampling.temperature > 0 ? sampling.seed : 0);  // up to 2^63 - 1
  const uint64_t place = begin + static_cast<uint64_t>(sequence.generated());
  return byte_ids_[static_cast<unsigned char>(options_.text[place % options_.text.size()])];
}

bool FakeEngine::end(Sequence& sequence, FinishReason reason, uint64_t& counter, Status error) {
  ++counter;
  metrics_.request.record(std::chrono::duration<double>(std::chrono::steady_clock::now() - sequence.begin).count());
  sequence.on_event(end_of(sequence, reason, std::move(error)));
  return true;
}

TokenScore FakeEngine::score(int32_t token, float logprob, int count) const {
  TokenScore out{{token, logprob}, {}};
  for (int i = 0; i < count; ++i) {
    out.top.push_back({(token + i) % tokenizer_.vocab_size(), logprob * static_cast<float>(i + 1)});
  }
  return out;
}

bool FakeEngine::step(Sequence& sequence) {
  const auto says = [&sequence](const char* word) { return sequence.prompt.find(word) != std::string::npos; };
  if (sequence.cancelled) return end(sequence, FinishReason::kCancelled, metrics_.cancelled, Status());
  if (says("HANG")) return false;
  if (says("FAIL") && (says("FAIL0") || sequence.generated() == 3)) {
    health_ = Status(StatusCode::kDataLoss, "table.rows: page 7: the checksum failed on two reads");
    return end(sequence, FinishReason::kError, metrics_.failed, health_);
  }
  GenerationEvent event = end_of(sequence, FinishReason::kNone, Status());
  if (sequence.request.trace) add_traces(sequence, event);
  const SamplingParams& sampling = sequence.request.sampling;
  for (size_t i = 1; i < sequence.request.prompt.size() && sampling.prompt_logprobs >= 0 && !sequence.told; ++i) {
    event.prompt_logprobs.push_back(score(sequence.request.prompt[i], -0.5F, sampling.prompt_logprobs));
  }
  sequence.told = true;
  if (sampling.max_tokens == 0) {
    ++metrics_.finished;
    event.finish = FinishReason::kLength;
    sequence.on_event(event);
    return true;
  }
  event.token = next_token(sequence);
  sequence.tokens.push_back(event.token);
  event.text = sequence.text->push(event.token);
  if (++event.completion_tokens == 1) metrics_.time_to_first_token.record(0.002);
  metrics_.inter_token.record(0.001);
  ++metrics_.generated_tokens;
  if (sampling.logprobs >= 0) event.logprob = score(event.token, -0.25F, sampling.logprobs);
  const bool last = event.completion_tokens >= sampling.max_tokens;
  const bool stopped = sequence.text->stopped();
  if (last) event.text += sequence.text->finish();
  if (stopped || last) {
    event.finish = stopped ? FinishReason::kStop : FinishReason::kLength;
    ++metrics_.finished;
  }
  sequence.on_event(event);
  return stopped || last;
}

}  // namespace engram
