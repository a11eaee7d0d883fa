#include "tests/golden/golden_files.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "engram/core/json.h"

namespace engram::golden {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the safetensors format itself

GoldenKind kind_of_json(const nlohmann::json& value) {
  if (value.is_object() && value.contains("cases") && value["cases"].is_array()) return GoldenKind::kTokenizer;
  bool hash = value.is_array() && !value.empty();
  for (size_t i = 0; hash && i < value.size(); ++i) hash = value[i].is_object() && value[i].contains("sequences");
  return hash ? GoldenKind::kHash : GoldenKind::kUnknown;
}

Result<std::string> safetensors_header(std::ifstream& file, const std::string& path) {
  unsigned char length_bytes[8];
  if (!file.read(reinterpret_cast<char*>(length_bytes), 8)) {
    return data_loss("{}: shorter than the 8 bytes of a safetensors length", path);
  }
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | length_bytes[i];
  if (length > kMaxHeaderBytes) {
    return data_loss("{}: header of {} bytes, wanted at most {}", path, length, kMaxHeaderBytes);
  }
  std::string header(length, '\0');
  if (!file.read(header.data(), static_cast<std::streamsize>(length))) {
    return data_loss("{}: ends inside its header of {} bytes", path, length);
  }
  return header;
}

}  // namespace

const char* golden_kind_name(GoldenKind kind) {
  switch (kind) {
    case GoldenKind::kUnknown: return "unknown";
    case GoldenKind::kModule: return "module";
    case GoldenKind::kHash: return "hash";
    case GoldenKind::kTokenizer: return "tokenizer";
  }
  return "unknown";
}

std::string golden_dir() {
  const char* dir = std::getenv("ENGRAM_GOLDEN_DIR");
  return dir != nullptr && *dir != '\0' ? dir : ENGRAM_SOURCE_DIR "/tests/golden";
}

Result<GoldenKind> golden_kind_of(const std::string& path) {
  std::string extension = fs::path(path).extension();
  if (extension != ".json" && extension != ".safetensors") return GoldenKind::kUnknown;
  std::ifstream file(path, std::ios::binary);
  if (!file) return not_found("{}: cannot be opened", path);
  if (extension == ".json") {
    std::string text{std::istreambuf_iterator<char>(file), {}};
    ENGRAM_ASSIGN_OR_RETURN(nlohmann::json value, parse_json(text, path));
    return kind_of_json(value);
  }
  ENGRAM_ASSIGN_OR_RETURN(std::string header, safetensors_header(file, path));
  ENGRAM_ASSIGN_OR_RETURN(nlohmann::json names, parse_json(header, path));
  for (const char* name : {"token_ids", "hashes", "gates", "output"}) {
    if (!names.is_object() || !names.contains(name)) return GoldenKind::kUnknown;
  }
  return GoldenKind::kModule;
}

Result<std::vector<std::string>> list_golden_files(GoldenKind kind) {
  std::string dir = golden_dir();
  std::error_code error;
  fs::directory_iterator entries(dir, error);
  if (error) return not_found("golden folder {}: {}", dir, error.message());
  std::vector<std::string> paths;
  bool any_known = false;
  for (const fs::directory_entry& entry : entries) {
    if (!entry.is_regular_file(error)) continue;
    ENGRAM_ASSIGN_OR_RETURN(GoldenKind found, golden_kind_of(entry.path().string()));
    any_known |= found != GoldenKind::kUnknown;
    if (found == kind) paths.push_back(entry.path().string());
  }
  if (!any_known) {
    return not_found("golden folder {}: no module, hash or tokenizer cases in it", dir);
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace engram::golden
