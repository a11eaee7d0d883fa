// A safetensors file around a header that a fuzzer made: its length in front and zeros behind, as many as it names, up
// to 64 KiB. Mutations seldom keep the three in step.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace engram {

inline std::vector<std::byte> fitted_safetensors(const std::string& header) {
  constexpr uint64_t kMostData = 64 << 10;
  uint64_t data = 0;
  const auto parsed = nlohmann::json::parse(header, nullptr, /*allow_exceptions=*/false);
  for (const auto& tensor : parsed.is_object() ? parsed : nlohmann::json::object()) {
    if (!tensor.is_object() || !tensor.contains("data_offsets")) continue;
    for (const auto& offset : tensor["data_offsets"])
      if (offset.is_number_unsigned()) data = std::max(data, offset.get<uint64_t>());
  }
  std::vector<std::byte> out(8 + header.size() + std::min(data, kMostData));
  for (size_t i = 0; i < 8; ++i) out[i] = static_cast<std::byte>(header.size() >> (8 * i));
  std::transform(header.begin(), header.end(), out.begin() + 8, [](char c) { return static_cast<std::byte>(c); });
  return out;
}

}  // namespace engram
