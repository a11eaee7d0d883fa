// Answer: turns the events of one call's choices into what its client reads: server-sent events while they come, or one
// body at the end.
//
// A stream is begin(), the texts of on_event(), end(); each is server-sent events ("data: ...\n\n"), ready to be
// sent. Once a choice fails, error() is set and the answer is over: a stream then closes with stream_error().
// Not thread-safe; info and tokenizer outlive it.
#pragma once
#include <memory>
#include <optional>
#include <string>

#include "engram/serve/engine.h"
#include "engram/serve/http_types.h"
#include "engram/serve/openai_api.h"

namespace engram {

class Answer {
 public:
  Answer(const EngineInfo& info, const Tokenizer& tokenizer, const GenerationCall& call);
  ~Answer();
  Answer(Answer&&) noexcept;

  const std::string& id() const;
  std::string begin() const;
  // The choice's next event; what a stream sends for it, "" for one that does not stream.
  std::string on_event(size_t choice, const GenerationEvent& event);
  bool done() const;  // every choice has ended
  const std::optional<ApiError>& error() const;
  std::string end() const;
  HttpReply reply() const;  // REQUIRES: done(), no error, not a stream

  static std::string stream_error(const ApiError& error);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace engram
