// Any bytes as a safetensors file: refused with a one-line reason, or every view lies inside the bytes and fits its
// shape.
#include <cstdint>
#include <span>
#include <vector>

#include "engram/formats/safetensors.h"

namespace {

void check_file(std::span<const std::byte> bytes) {
  engram::Result<engram::SafetensorsFile> file = engram::SafetensorsFile::parse(bytes, "fuzz");
  if (!file.ok()) {
    const std::string& reason = file.status().message();
    ENGRAM_CHECK(!reason.empty() && reason.find('\n') == std::string::npos, "reason '{}'", reason);
    return;
  }
  uint64_t total = 0;
  for (const auto& [name, view] : file->tensors()) {
    const engram::TensorSpec spec{name, view.dtype, view.shape};
    ENGRAM_CHECK(spec.num_bytes() == static_cast<int64_t>(view.bytes.size()), "{} of {} bytes", spec.num_bytes(),
                 view.bytes.size());
    const bool inside = view.bytes.empty() || (view.bytes.data() >= bytes.data() &&
                                               view.bytes.data() + view.bytes.size() <= bytes.data() + bytes.size());
    ENGRAM_CHECK(inside, "a view of {} bytes lies outside the file", view.bytes.size());
    total += view.bytes.size();
  }
  ENGRAM_CHECK(total + 8 <= bytes.size(), "{} bytes of tensors in a file of {}", total, bytes.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> bytes = std::as_bytes(std::span(data, size));
  check_file(bytes);
  // Again with a length that ends the header at the last brace: mutations seldom keep the two in step.
  size_t length = size;
  while (length > 0 && data[length - 1] != '}') --length;
  std::vector<std::byte> fitted(8);
  for (size_t i = 0; i < fitted.size(); ++i) fitted[i] = static_cast<std::byte>(length >> (8 * i));
  fitted.insert(fitted.end(), bytes.begin(), bytes.end());
  check_file(fitted);
  return 0;
}
