// Names the kind of a file that is not what was wanted, by its first bytes, and says what to do about it.
//
// For readers whose own format was not found ("a Git LFS pointer, not the file itself; fetch the file with `git lfs
// pull`"), and for text, because nearly any file could be read as text.
#pragma once
#include <span>
#include <string>
#include <string_view>

#include "engram/core/env.h"
#include "engram/core/status.h"

namespace engram {

// kInvalidArgument names `name`, the kind and the advice; ok where the first bytes are not of a known kind.
// 512 bytes tell everything.
Status check_not_foreign(std::string_view first_bytes, const std::string& name);
Status check_not_foreign(std::span<const std::byte> first_bytes, const std::string& name);

// The same for a file that is taken as text, and JSON lines are refused too: their texts are inside strings.
Status check_text(std::string_view text, const std::string& name);
// A text that a user named, whole and through check_text(). Pipes are read too. kResourceExhausted: more than the
// memory that is available.
Result<std::string> read_text_file(Env& env, const std::string& path);

}  // namespace engram
