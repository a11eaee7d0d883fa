// The channels of a world: groups of connections whose exchanges do not wait for each other.
#pragma once
#include <array>

namespace engram {

enum class Channel { kControl, kDense, kTable, kExpert };
inline constexpr std::array<const char*, 4> kChannelNames = {"control", "dense", "table", "expert"};
inline constexpr int kChannels = static_cast<int>(kChannelNames.size());

}  // namespace engram
