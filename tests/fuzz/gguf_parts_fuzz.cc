// Any bytes as a GGUF file in two parts: refused in one line, or every tensor lies inside one of them. The first byte
// says where the second part begins, in 256ths.
#include <cstdint>
#include <span>
#include <utility>

#include "engram/formats/gguf.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::span<const std::byte> bytes = std::as_bytes(std::span(data + 1, size - 1));
  const auto cut = bytes.size() * data[0] / 256;
  std::vector<engram::GgufFile> parts;
  for (const auto part : {bytes.first(cut), bytes.subspan(cut)}) {
    engram::Result<engram::GgufFile> file = engram::GgufFile::parse(part, "fuzz");
    if (!file.ok()) return 0;
    parts.push_back(std::move(*file));
  }
  const size_t tensors = parts[0].tensors().size() + parts[1].tensors().size();
  const engram::Result<engram::GgufFile> whole = engram::GgufFile::join(std::move(parts));
  if (!whole.ok()) {
    ENGRAM_CHECK(!whole.status().message().empty(), "no reason");
    return 0;
  }
  ENGRAM_CHECK(whole->tensors().size() == tensors, "{} tensors of {}", whole->tensors().size(), tensors);
  for (const auto& [name, tensor] : whole->tensors())
    ENGRAM_CHECK(tensor.bytes.empty() || (tensor.bytes.data() >= bytes.data() &&
                                          tensor.bytes.data() + tensor.bytes.size() <= bytes.data() + bytes.size()),
                 "{} bytes", tensor.bytes.size());
  return 0;
}
