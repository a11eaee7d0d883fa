// EngineThread: an LLMEngine behind the Engine interface.
#pragma once
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "engram/serve/llm_engine.h"
#include "engram/serve/step_log.h"

namespace engram {

// The engine on its own thread, which sleeps while there is nothing to do. Thread-safe. The destructor cancels what is
// left. The log, if there is one, gets what StepLog says.
class EngineThread final : public Engine {
 public:
  explicit EngineThread(std::unique_ptr<LLMEngine> engine, std::shared_ptr<ServerLog> log = nullptr);
  ~EngineThread() override;
  Result<uint64_t> submit(GenerationRequest request, OnEvent on_event) override;
  void cancel(uint64_t id) override;
  void drain() override;
  EngineMetrics metrics() const override;
  Status health() const override;
  const EngineInfo& info() const override { return info_; }
  // Not ok: the engine has stopped for good, every request was told so. What remains is to end the process.
  Status failure() const;

 private:
  struct Submitted {
    uint64_t id;
    GenerationRequest request;
    OnEvent on_event;
  };

  void run() noexcept;
  void loop();
  void take_in(std::vector<Submitted> submitted, const std::vector<uint64_t>& cancelled);
  void stop_for_good(const std::string& why) noexcept;

  std::unique_ptr<LLMEngine> engine_;  // run()'s alone, except what any thread may call
  const EngineInfo info_;
  const std::shared_ptr<ServerLog> log_;
  StepLog step_log_;          // run()'s alone
  mutable std::mutex mutex_;  // guards all below
  std::condition_variable wake_, idle_;
  std::vector<Submitted> submitted_;
  std::vector<uint64_t> cancelled_;
  EngineMetrics metrics_;  // after the last step
  Status health_, failure_;
  uint64_t next_id_ = 1;
  bool draining_ = false, stopping_ = false, busy_ = false;
  std::thread thread_;
};

}  // namespace engram
