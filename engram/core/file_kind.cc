#include "engram/core/file_kind.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>

#include "engram/core/machine.h"

namespace engram {
namespace {

using namespace std::string_view_literals;

struct Kind {
  std::string_view magic, name, advice;
  size_t offset = 0;
};

constexpr Kind kKinds[] = {
    {"version https://git-lfs"sv, "a Git LFS pointer, not the file itself", "fetch the file with `git lfs pull`"},
    {"PAR1"sv, "a Parquet table", "write its text column to a UTF-8 file first"},
    {"ARROW1"sv, "an Arrow table", "write its text column to a UTF-8 file first"},
    {"\x28\xB5\x2F\xFD"sv, "compressed with zstd", "unpack it first (zstd -d)"},
    {"\x1F\x8B"sv, "compressed with gzip", "unpack it first (gzip -d)"},
    {"BZh"sv, "compressed with bzip2", "unpack it first (bzip2 -d)"},
    {"\xFD\x37zXZ\0"sv, "compressed with xz", "unpack it first (xz -d)"},
    {"\x04\x22\x4D\x18"sv, "compressed with lz4", "unpack it first (lz4 -d)"},
    {"PK\x03\x04"sv, "a zip archive, as PyTorch's .pt and NumPy's .npz are",
     "unpack it first, or save the tensors as safetensors"},
    {"ustar"sv, "a tar archive", "unpack it first (tar -xf)", 257},
    {"\x80\x02"sv, "a Python pickle", "save the tensors as safetensors; pickles are not read, they can run code"},
    {"\x80\x03"sv, "a Python pickle", "save the tensors as safetensors; pickles are not read, they can run code"},
    {"\x80\x04"sv, "a Python pickle", "save the tensors as safetensors; pickles are not read, they can run code"},
    {"\x80\x05"sv, "a Python pickle", "save the tensors as safetensors; pickles are not read, they can run code"},
    {"\x93NUMPY"sv, "a NumPy array", "write text as UTF-8, tensors as safetensors"},
    {"\x89HDF\r\n"sv, "an HDF5 file", "write text as UTF-8, tensors as safetensors"},
    {"SQLite format 3\0"sv, "an SQLite database", "write its text to a UTF-8 file first"},
    {"%PDF-"sv, "a PDF document", "write its text to a UTF-8 file first"},
    {"GGUF"sv, "a GGUF model", "give it where a table is wanted"},
    {"ENGRTOKS"sv, "a token shard", "give it where a token shard is wanted"},
    {"ENGRROWS"sv, "a row file", "give it where a table is wanted"},
};

Status refuse(const std::string& name, std::string_view kind, std::string_view advice) {
  return invalid_argument("{}: this is {}; {}", name, kind, advice);
}

// Hugging Face's .arrow files: a mark, the length of a message, and where its table starts.
bool is_arrow_stream(std::string_view bytes) {
  return bytes.starts_with("\xFF\xFF\xFF\xFF"sv) && bytes.size() > 12 && bytes.substr(8, 4) == "\x10\0\0\0"sv;
}

Status check_kinds(std::string_view bytes, const std::string& name) {
  if (is_arrow_stream(bytes)) return refuse(name, "an Arrow stream", "write its text column to a UTF-8 file first");
  for (const Kind& kind : kKinds) {
    if (bytes.size() >= kind.offset && bytes.substr(kind.offset).starts_with(kind.magic))
      return refuse(name, kind.name, kind.advice);
  }
  return {};
}

// An error page that was saved in a file's place. Text may well be HTML.
bool is_html(std::string_view bytes) {
  std::string start(bytes.substr(0, 15));
  std::transform(start.begin(), start.end(), start.begin(), [](unsigned char c) { return std::tolower(c); });
  return start.starts_with("<!doctype html") || start.starts_with("<html");
}

// An object for each of the first lines, with a string in it.
bool is_json_lines(std::string_view text, const std::string& name) {
  constexpr size_t kLongestLine = 1 << 20;
  const bool is_named_so = name.ends_with(".jsonl") || name.ends_with(".ndjson");
  const size_t end = text.find('\n');
  const std::string_view first = text.substr(0, std::min(end, kLongestLine));
  if (!first.starts_with('{')) return false;
  const nlohmann::json json = nlohmann::json::parse(first, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return is_named_so;
  const std::string_view rest = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
  const bool has_text = std::any_of(json.begin(), json.end(), [](const auto& value) { return value.is_string(); });
  return is_named_so || (has_text && rest.starts_with('{'));
}

}  // namespace

Status check_not_foreign(std::string_view first_bytes, const std::string& name) {
  if (is_html(first_bytes)) return refuse(name, "an HTML page", "the download failed; fetch the file again");
  return check_kinds(first_bytes, name);
}

Status check_not_foreign(std::span<const std::byte> first_bytes, const std::string& name) {
  return check_not_foreign(std::string_view(reinterpret_cast<const char*>(first_bytes.data()), first_bytes.size()),
                           name);
}

Status check_text(std::string_view text, const std::string& name) {
  ENGRAM_RETURN_IF_ERROR(check_kinds(text, name));
  if (is_json_lines(text, name))
    return refuse(
        name, "JSON lines, not text",
        "`engram data prepare` reads them from a file named .jsonl; else write the texts out first, one after "
        "the other, with a line <|endoftext|> between them");
  return {};
}

Result<std::string> read_text_file(Env& env, const std::string& path) {
  ENGRAM_ASSIGN_OR_RETURN(std::string text,
                          env.read_file(path, {.max_bytes = available_memory_bytes(), .pipes = true}));
  ENGRAM_RETURN_IF_ERROR(check_text(text, path));
  return text;
}

}  // namespace engram
