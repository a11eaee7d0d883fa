// The form of a tokenizer.json with a BPE model, as the `tokenizers` package writes it. Pure functions; any thread.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

namespace engram {

// Every key in the package's order; no tokens, no merges and no stages yet.
nlohmann::ordered_json bpe_file_json();
// An entry of added_tokens that is matched as it is written.
nlohmann::ordered_json added_token_json(int64_t id, std::string_view content, bool special);

}  // namespace engram
