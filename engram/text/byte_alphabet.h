// GPT-2's alphabet: 256 printable characters, one for each byte (0x20 is U+0120, ...), in which the vocabularies of
// byte-level BPE are spelled. Pure functions; any thread.
#pragma once
#include <optional>
#include <string>
#include <string_view>

namespace engram {

std::string byte_level_encode(std::string_view bytes);
// The bytes of a token; nullopt when a character is not of the alphabet. `token` is valid UTF-8.
std::optional<std::string> byte_level_decode(std::string_view token);

}  // namespace engram
