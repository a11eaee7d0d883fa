#include "engram/kernels/row_format.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "engram/core/json.h"

namespace engram {
namespace {

constexpr std::array<const char*, 5> kNames = {"fp32", "bf16", "fp8", "int8", "int4"};

}  // namespace

const char* row_type_name(RowType type) { return kNames[static_cast<size_t>(type)]; }

Result<RowType> parse_row_type(std::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (name == kNames[i]) return static_cast<RowType>(i);
  }
  return invalid_argument("row dtype is {}, wanted fp32, bf16, fp8, int8 or int4", quote_text(name));
}

Status RowFormat::check() const {
  if (width < 1 || width > kMaxRowWidth)
    return invalid_argument("row width is {}, wanted 1 .. {}", width, kMaxRowWidth);
  const char* name = row_type_name(type);
  const bool is_float = type == RowType::kFP32 || type == RowType::kBF16;
  if (is_float && block != 0) return invalid_argument("{} rows have no scales, got one per {} columns", name, block);
  if (block < 0 || block > width)
    return invalid_argument("{} rows: a scale per {} columns, wanted 1 .. width {}", name, block, width);
  if (!is_float && type != RowType::kFP8 && block == 0)
    return invalid_argument("{} rows need a scale per row or block, got none", name);
  if (type == RowType::kInt4 && (width % 2 != 0 || block % 2 != 0))
    return invalid_argument("int4 rows: width {} and block {}, wanted even numbers", width, block);
  if (!std::isfinite(table_scale) || table_scale <= 0)
    return invalid_argument("{} rows: table scale is {}, wanted a positive number", name, table_scale);
  if (table_scale != 1.0f && (type != RowType::kFP8 || block != 0))
    return invalid_argument("{} rows: got a table scale of {}, which only fp8 without scales in the rows has", name,
                            table_scale);
  return {};
}

int64_t RowFormat::num_scales() const { return block == 0 ? 0 : (width + block - 1) / block; }

int64_t RowFormat::code_bytes() const {
  switch (type) {
    case RowType::kFP32: return width * 4;
    case RowType::kBF16: return width * 2;
    case RowType::kFP8:
    case RowType::kInt8: return width;
    case RowType::kInt4: return width / 2;
  }
  return 0;
}

int64_t RowFormat::row_bytes() const { return code_bytes() + num_scales() * (type == RowType::kFP8 ? 1 : 4); }

std::string RowFormat::to_string() const {
  std::string text = fmt::format("{}, {} columns", row_type_name(type), width);
  if (block > 0) text += block == width ? std::string(", a scale per row") : fmt::format(", a scale per {}", block);
  if (table_scale != 1.0f) text += fmt::format(", scale {}", table_scale);
  return text;
}

RowFormat default_row_format(RowType type, int64_t width) {
  RowFormat format{.type = type, .width = width};
  if (type == RowType::kInt8) format.block = width;
  if (type == RowType::kFP8 || type == RowType::kInt4) format.block = std::min<int64_t>(32, width);
  return format;
}

}  // namespace engram
