// The two ways into a session's handlers. Private to http_session*.cc.
#pragma once
#include <boost/asio/post.hpp>

#include "engram/serve/http_session.h"

namespace engram {

template <typename Work>
void HttpSession::guarded(const Work& work) noexcept {
  try {
    try {
      work();
    } catch (const std::exception& problem) {
      on_exception(problem.what());
    } catch (...) {
      on_exception("an exception of no known kind");
    }
  } catch (...) {  // not even the reply could be made
    phase_ = Phase::kClosed;
    boost::system::error_code ignored;
    socket_.close(ignored);
  }
}

template <typename Work>
void HttpSession::post(Work work) {
  boost::asio::post(socket_.get_executor(),
                    [self = shared_from_this(), work = std::move(work)] { self->guarded(work); });
}

}  // namespace engram
