// A stand-in for a header of Gloo that libtorch's wheel lacks (docs/dependencies.md): what ProcessGroupGloo.hpp names.
#pragma once

namespace gloo::transport {

class UnboundBuffer {  // never laid out or made here
 public:
  virtual ~UnboundBuffer();
};

}  // namespace gloo::transport
