// Any bytes as a gzip file and as a Zstandard file: refused with one line, or a text within the limit.
#include <cstdint>
#include <cstdlib>

#include "engram/data/compressed_text.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace engram;
  constexpr size_t kMost = 1 << 20;
  for (const char* name : {"a.gz", "a.zst"}) {
    const auto text = decompress(std::as_bytes(std::span(data, size)), name, kMost);
    if (text.ok() ? text->size() > kMost : text.status().message().find('\n') != std::string::npos) std::abort();
  }
  return 0;
}
