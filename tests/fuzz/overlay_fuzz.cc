// Any bytes as an overlay's header, over a table of two layers: refused with a one-line reason, or rows of the table
// that ascend. The data behind the header is zeros, as many as the header names.
#include <cstdint>
#include <span>
#include <string>

#include "engram/core/sha256.h"
#include "engram/store/rowfile/overlay_file.h"
#include "tests/fuzz/fitted_safetensors.h"

namespace {

using namespace engram;

const RowFileInfo& table() {
  static const RowFileInfo info = [] {
    RowTable one;
    one.layer_id = 1;
    one.num_rows = 100;
    one.format = default_row_format(RowType::kFP32, 4);
    RowTable two = one;
    two.layer_id = 5;
    return value_or_throw(RowFileInfo::create({one, two}, std::nullopt));
  }();
  return info;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string header(reinterpret_cast<const char*>(data), size);
  // No mutation finds the table's digest: DIGEST stands for it.
  if (const size_t at = header.find("DIGEST"); at != std::string::npos)
    header.replace(at, 6, sha256_hex(table().header_bytes()));
  const std::vector<std::byte> bytes = fitted_safetensors(header);
  const Result<SafetensorsFile> file = SafetensorsFile::parse(bytes, "fuzz");
  if (!file.ok()) return 0;
  const Result<Overlay> overlay = Overlay::parse(*file, table());
  if (!overlay.ok()) {
    const std::string& reason = overlay.status().message();
    ENGRAM_CHECK(!reason.empty() && reason.find('\n') == std::string::npos, "reason '{}'", reason);
    return 0;
  }
  for (const Overlay::Layer& layer : overlay->layers) {
    ENGRAM_CHECK(layer.rows.size() == layer.row_ids.size() * 16 && layer.replaced.size() == layer.row_ids.size(),
                 "{} rows", layer.row_ids.size());
    int64_t last = -1;
    for (const int64_t id : layer.row_ids) {
      ENGRAM_CHECK(id > last && id < 100, "row {} after {}", id, last);
      last = id;
    }
  }
  return 0;
}
