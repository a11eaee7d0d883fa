// Any bytes as a GGUF file: refused with a one-line reason, or every value and tensor lies inside the bytes and every
// getter answers.
#include <cstdint>
#include <span>

#include "engram/formats/gguf.h"

namespace {

bool inside(std::span<const std::byte> part, std::span<const std::byte> whole) {
  return part.empty() || (part.data() >= whole.data() && part.data() + part.size() <= whole.data() + whole.size());
}

template <typename T>
void check_result(const engram::Result<T>& result) {
  if (result.ok()) return;
  const std::string& reason = result.status().message();
  ENGRAM_CHECK(!reason.empty() && reason.find('\n') == std::string::npos, "reason '{}'", reason);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> bytes = std::as_bytes(std::span(data, size));
  const engram::Result<engram::GgufFile> file = engram::GgufFile::parse(bytes, "fuzz");
  check_result(file);
  if (!file.ok()) return 0;
  for (const auto& [key, value] : file->values()) {
    ENGRAM_CHECK(inside(value.bytes, bytes), "a value of {} bytes lies outside the file", value.bytes.size());
    // Keys are bytes of the file and go into messages: only those that are text there.
    if (key.find_first_of("\r\n") != std::string::npos) continue;
    check_result(file->integers(key, 1 << 16));
    check_result(file->integer(key));
    check_result(file->strings(key, 1 << 16));
    check_result(file->string(key));
  }
  for (const auto& [name, tensor] : file->tensors())
    ENGRAM_CHECK(inside(tensor.bytes, bytes) && tensor.shape.size() <= 4, "{} bytes", tensor.bytes.size());
  return 0;
}
