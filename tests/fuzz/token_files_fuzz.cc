// Any bytes as another trainer's token file: a byte says how much of them is the index (0: llm.c's). Refused with one
// line, or documents of ids that the vocabulary has.
#include <cstdint>
#include <cstdlib>

#include "engram/data/token_files.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace engram;
  if (size == 0) return 0;
  const std::span<const std::byte> bytes = std::as_bytes(std::span(data + 1, size - 1));
  const size_t split = bytes.size() * data[0] / 255;
  std::optional<std::span<const std::byte>> index;
  if (split > 0) index = bytes.first(split);
  const auto documents = parse_token_file(bytes.subspan(split), index, "fuzz", 1000, 5);
  if (!documents.ok()) {
    if (documents.status().message().find('\n') != std::string::npos) std::abort();
    return 0;
  }
  for (const auto& document : *documents) {
    if (document.empty()) std::abort();
    for (const int32_t id : document)
      if (id < 0 || id >= 1000) std::abort();
  }
  return 0;
}
