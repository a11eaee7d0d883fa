// A stand-in for a header of Gloo that libtorch's wheel lacks (docs/dependencies.md): what ProcessGroupGloo.hpp names.
#pragma once

namespace gloo::transport {

class Device;

}  // namespace gloo::transport
