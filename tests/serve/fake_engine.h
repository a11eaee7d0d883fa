// FakeEngine: an engine for tests of the HTTP layer: one thread that "generates" a canned text byte by byte, with
// traces, log-probabilities, stop strings, failures and delays where a test asks for them. A prompt's tokens have log
// probabilities of -0.5. A token with the bias 100 is all that it says.
//
// The vocabulary is the byte-level one: <|endoftext|> is 0, byte b is another token. A prompt that contains FAIL fails
// after three tokens, FAIL0 before the first; HANG never gets a token; a prompt with THROW makes submit() throw.
#pragma once
#include <array>
#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "engram/serve/engine.h"
#include "engram/text/tokenizer.h"

namespace engram {

struct FakeEngineOptions {
  std::string text =
      "The memory of a model is a table. Its rows come before they are needed: \u00e9t\u00e9 \u6f22\u5b57! ";
  std::chrono::microseconds step{200};
  size_t max_requests = 1000;  // running ones; more: kResourceExhausted
  int max_context = 2048;
  bool memory = true;
  bool resident = false;  // its table: no store, nothing to count
};

class FakeEngine : public Engine {
 public:
  explicit FakeEngine(FakeEngineOptions options = {});
  ~FakeEngine() override;

  Result<uint64_t> submit(GenerationRequest request, OnEvent on_event) override;
  void cancel(uint64_t id) override;
  void drain() override;
  EngineMetrics metrics() const override;
  Status health() const override;
  const EngineInfo& info() const override { return info_; }

  const Tokenizer& tokenizer() const { return tokenizer_; }
  GenerationRequest last_request() const;
  bool wait_until_idle(std::chrono::milliseconds limit) const;

 private:
  struct Sequence;
  void run();
  // One token of a sequence; true when it has ended.
  bool step(Sequence& sequence);
  GenerationEvent end_of(const Sequence& sequence, FinishReason reason, Status error) const;
  TokenTrace trace_of(const Sequence& sequence, size_t position) const;
  void add_traces(Sequence& sequence, GenerationEvent& event);
  int32_t next_token(const Sequence& sequence) const;
  TokenScore score(int32_t token, float logprob, int count) const;
  bool end(Sequence& sequence, FinishReason reason, uint64_t& counter, Status error);

  FakeEngineOptions options_;
  Tokenizer tokenizer_;
  EngineInfo info_;
  std::array<int32_t, 256> byte_ids_{};
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::map<uint64_t, std::shared_ptr<Sequence>> sequences_;  // guarded by mutex_, like all below
  GenerationRequest last_request_;
  Status health_;
  EngineMetrics metrics_;
  uint64_t next_id_ = 1;
  bool draining_ = false, stopping_ = false;
  std::thread thread_;
};

}  // namespace engram
