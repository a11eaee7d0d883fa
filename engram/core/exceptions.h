// Turns exceptions into a Status, for threads: a thread that throws would end the program.
#pragma once
#include <exception>
#include <new>
#include <system_error>

#include "engram/core/status.h"

namespace engram {

// What `work()`, a Status or a Result<T>, returns. kResourceExhausted: it ran out of memory, or the system refused it a
// thread; kInternal: it threw something else, whose text is the message.
template <typename Work>
auto catch_exceptions(const Work& work) -> decltype(work()) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    return Status(StatusCode::kResourceExhausted, "not enough memory");
  } catch (const std::system_error& error) {
    const bool refused = error.code() == std::errc::resource_unavailable_try_again;
    return refused ? make_status(StatusCode::kResourceExhausted, "cannot start a thread: {}", error.what())
                   : Status(StatusCode::kInternal, error.what());
  } catch (const std::exception& error) {
    return Status(StatusCode::kInternal, error.what());
  }
}

}  // namespace engram
