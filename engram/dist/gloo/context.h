// A stand-in for a header of Gloo that libtorch's wheel lacks (docs/dependencies.md): what ProcessGroupGloo.hpp names.
#pragma once
#include <chrono>

#include <gloo/transport/unbound_buffer.h>

namespace gloo {

class Context {  // never laid out or made here
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};

}  // namespace gloo
