// Text files: what a user names as text, files and folders, as a list of files.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"

namespace engram {

struct TextFiles {
  std::vector<std::string> files;  // in the order of `paths`; those of a folder in the order of their names
  int64_t skipped = 0;             // files in folders that have other endings
  std::string first_skipped;       // one of them
};

// A file is taken as it is; of a folder, every file below it whose name ends in .txt, .text, .md, .markdown or .rst
// (json_lines: or .jsonl), in letters of either case, with or without .gz or .zst behind it. Names that begin with a
// dot are left out. kNotFound: no such file; kInvalidArgument: a folder without text files, or nested deeper than 32
// folders.
Result<TextFiles> find_text_files(Env& env, const std::vector<std::string>& paths, bool json_lines = false);

struct MappedText {
  std::unique_ptr<MappedFile> file;  // ask its readable() after the text was used; null where it was unpacked
  std::unique_ptr<std::string> unpacked;
  std::string_view text;  // a view into one of the two
};

// A file's bytes; of .gz and .zst those that it stands for. Errors: decompress().
Result<MappedText> map_unpacked(Env& env, const std::string& path);
// One of these files. kInvalidArgument: another kind of file (core/file_kind.h), or not UTF-8.
Result<MappedText> map_text_file(Env& env, const std::string& path);

}  // namespace engram
