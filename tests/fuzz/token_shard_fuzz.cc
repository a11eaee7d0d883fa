// A token shard from its parts: 56 bytes of header, 72 of footer, then the sections, as long as the footer says.
// Checksums and the place of the starts are set right first: no mutation would get past them. Refused with a one-line
// reason, or every token can be read and is one of the vocabulary.
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "engram/core/crc32c.h"
#include "engram/data/token_shard.h"

namespace {

using namespace engram;

constexpr size_t kPage = 4096, kHeader = 56, kFooter = 72;

template <typename T>
T get(const std::string& bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}
template <typename T>
void put(std::string& bytes, size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}
uint32_t crc_of(const std::string& bytes) { return crc32c(std::as_bytes(std::span(bytes))); }
std::string sealed(std::string page) {
  page.resize(kPage - 4);
  const uint32_t crc = crc_of(page);
  page.resize(kPage);
  put(page, kPage - 4, crc);
  return page;
}

// Takes `bytes` of `rest` as a section of whole pages.
std::string section(std::string& rest, uint64_t bytes) {
  const size_t size = static_cast<size_t>(std::min<uint64_t>(bytes, 1 << 16));
  std::string pages = rest.substr(0, size);
  rest.erase(0, size);
  pages.resize((size + kPage - 1) / kPage * kPage);
  return pages;
}

std::string fitted(const std::string& header, std::string footer, std::string rest) {
  const auto tokens = get<uint64_t>(footer, 8);
  const std::string ids = section(rest, tokens * get<uint32_t>(header, 12));
  const std::string starts = section(rest, get<uint64_t>(footer, 16) * 8);
  const std::string mask = get<uint32_t>(header, 8) == 2 ? section(rest, (tokens + 7) / 8) : "";
  put(footer, 32, uint64_t{kPage + ids.size()});
  put(footer, 40, crc_of(ids));
  put(footer, 44, crc_of(starts));
  if (!mask.empty()) put(footer, 48, crc_of(mask));
  return sealed(header) + ids + starts + mask + sealed(footer);
}

void check(const TokenShard& shard) {
  std::vector<int32_t> tokens(static_cast<size_t>(shard.info().num_tokens)), targets(tokens.size());
  shard.copy_tokens(0, tokens);
  shard.copy_targets(0, targets);
  for (size_t i = 0; i < tokens.size(); ++i) {
    ENGRAM_CHECK(tokens[i] >= 0 && tokens[i] < shard.info().vocab_size, "token {} is {}", i, tokens[i]);
    ENGRAM_CHECK(targets[i] == tokens[i] || (targets[i] == -1 && shard.info().masked), "target {} is {}", i,
                 targets[i]);
  }
  int64_t last = -1;
  for (const int64_t start : shard.document_starts()) {
    ENGRAM_CHECK(start > last && start < shard.info().num_tokens, "start {} after {}", start, last);
    last = start;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::string path =
      std::filesystem::temp_directory_path() / ("engram_fuzz_shard_" + std::to_string(getpid()));
  std::string bytes(reinterpret_cast<const char*>(data), size);
  if (size >= kHeader + kFooter)
    bytes = fitted(bytes.substr(0, kHeader), bytes.substr(kHeader, kFooter), bytes.substr(kHeader + kFooter));
  std::ofstream(path, std::ios::binary) << bytes;
  const auto shard = TokenShard::open(Env::posix(), path);
  std::filesystem::remove(path);
  if (shard.ok()) {
    check(*shard);
    return 0;
  }
  const std::string& reason = shard.status().message();
  ENGRAM_CHECK(!reason.empty() && reason.find('\n') == std::string::npos, "reason '{}'", reason);
  return 0;
}
