#include "engram/data/text_files.h"

#include <algorithm>

#include "engram/core/file_kind.h"
#include "engram/core/machine.h"
#include "engram/data/compressed_text.h"
#include "engram/text/unicode.h"

namespace engram {
namespace {

constexpr int kMaxDepth = 32;  // links may make a circle; the system follows 40
constexpr const char* kEndings[] = {".txt", ".text", ".md", ".markdown", ".rst"};

bool has_text_ending(std::string name, bool json_lines) {
  std::transform(name.begin(), name.end(), name.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; });
  name = without_compression_ending(name);
  return (json_lines && name.ends_with(".jsonl")) ||
         std::any_of(std::begin(kEndings), std::end(kEndings),
                     [&](const char* ending) { return name.ends_with(ending); });
}

Status add_folder(Env& env, const std::string& folder, const std::vector<std::string>& names, int depth,
                  bool json_lines, TextFiles& found) {
  if (depth > kMaxDepth)
    return invalid_argument("{}: more than {} folders within each other; does a link lead back?", folder, kMaxDepth);
  for (const std::string& name : names) {
    if (name.starts_with('.')) continue;
    const std::string path = join_path(folder, name);
    if (const auto below = env.list_directory(path); below.ok()) {
      ENGRAM_RETURN_IF_ERROR(add_folder(env, path, *below, depth + 1, json_lines, found));
    } else if (has_text_ending(name, json_lines)) {
      found.files.push_back(path);
    } else {
      if (found.skipped++ == 0) found.first_skipped = path;
    }
  }
  return Status();
}

}  // namespace

Result<TextFiles> find_text_files(Env& env, const std::vector<std::string>& paths, bool json_lines) {
  TextFiles found;
  for (const std::string& path : paths) {
    if (!env.file_exists(path)) return not_found("{}: no such file or folder", path);
    const auto names = env.list_directory(path);
    if (!names.ok()) {
      found.files.push_back(path);
      continue;
    }
    const size_t before = found.files.size();
    ENGRAM_RETURN_IF_ERROR(add_folder(env, path, *names, 1, json_lines, found));
    if (found.files.size() == before)
      return invalid_argument(
          "{}: no text in this folder: no file ends in {}; name files with other endings one by one", path,
          fmt::join(kEndings, ", "));
  }
  return found;
}

Result<MappedText> map_unpacked(Env& env, const std::string& path) {
  MappedText mapped;
  ENGRAM_ASSIGN_OR_RETURN(mapped.file, env.map_file(path));
  const std::span<const std::byte> bytes = mapped.file->bytes();
  mapped.text = {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  if (!is_compressed_name(path)) return mapped;
  ENGRAM_ASSIGN_OR_RETURN(std::string text,
                          decompress(bytes, path, static_cast<size_t>(std::max<int64_t>(available_memory_bytes(), 1))));
  ENGRAM_RETURN_IF_ERROR(mapped.file->readable());
  mapped.file.reset();
  mapped.unpacked = std::make_unique<std::string>(std::move(text));
  mapped.text = *mapped.unpacked;
  return mapped;
}

Result<MappedText> map_text_file(Env& env, const std::string& path) {
  ENGRAM_ASSIGN_OR_RETURN(MappedText mapped, map_unpacked(env, path));
  ENGRAM_RETURN_IF_ERROR(check_text(mapped.text, path));
  if (const size_t at = find_invalid_utf8(mapped.text); at != std::string_view::npos)
    return invalid_argument("{}: not UTF-8 at byte {} (0x{:02x}); convert the file first, for example with iconv", path,
                            at, static_cast<unsigned char>(mapped.text[at]));
  return mapped;
}

}  // namespace engram
