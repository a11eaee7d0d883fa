// A folder of a Qwen4Exp or LongCat model: any bytes as config.json and, after a zero byte, as the header of its
// safetensors file. Refused with a one-line reason, or every row of its tables can be read.
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "engram/store/import/import.h"
#include "tests/fuzz/fitted_safetensors.h"

namespace {

using namespace engram;

struct Folder {
  std::string path = std::filesystem::temp_directory_path() / "engram_fuzz_XXXXXX";
  Folder() { ENGRAM_CHECK(mkdtemp(path.data()) != nullptr, "{}", path); }
  ~Folder() { std::filesystem::remove_all(path); }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Folder folder;
  const std::string text(reinterpret_cast<const char*>(data), size);
  const size_t end = std::min(text.find('\0'), text.size());
  const auto config = nlohmann::json::parse(text.substr(0, end), nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) return 0;
  const std::vector<std::byte> bytes = fitted_safetensors(text.substr(std::min(end + 1, text.size())));
  std::ofstream(folder.path + "/model.safetensors", std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), std::ssize(bytes));
  const auto open = import::is_longcat(config) ? import::open_longcat : import::open_ple;
  const auto source = open(Env::posix(), folder.path, config, "config.json");
  if (!source.ok()) {
    const std::string& reason = source.status().message();
    ENGRAM_CHECK(!reason.empty() && reason.find('\n') == std::string::npos, "reason '{}'", reason);
    return 0;
  }
  for (size_t table = 0; table < (*source)->tables().size(); ++table) {
    const SourceTable& rows = (*source)->tables()[table];
    std::vector<std::byte> out(static_cast<size_t>(rows.num_rows * rows.format.row_bytes()));  // no more than the file
    throw_if_error((*source)->read_rows(static_cast<int>(table), 0, rows.num_rows, out));
  }
  return 0;
}
