// Row codecs: vector code against the plain oracle bit for bit, both against PyTorch's float8 types, and encoding.
#include "engram/kernels/row_codec.h"

#ifdef __SSE__
#include <xmmintrin.h>
#endif
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "engram/core/sha256.h"
#include "engram/formats/safetensors.h"

namespace engram {
namespace {

std::vector<std::byte> random_bytes(size_t size, uint32_t seed) {
  std::mt19937 generator(seed);
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(generator());
  return bytes;
}

template <typename T>
std::string digest(const std::vector<T>& values) {
  return sha256_hex({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)});
}

template <typename T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

std::vector<float> decode(const RowFormat& format, const std::vector<std::byte>& rows, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count * format.width));
  decode_rows(format, rows.data(), static_cast<size_t>(format.row_bytes()), count, values.data());
  return values;
}

// Both decoders in both versions over `count` rows, `stride` apart, from an address that is not aligned.
void expect_equal_decoders(const RowFormat& format, const std::vector<std::byte>& rows, size_t stride, int64_t count) {
  const std::byte* from = rows.data() + 1;
  const size_t size = static_cast<size_t>(count * format.width);
  std::vector<float> fast(size + 1, 7.0f), plain(size + 1, 7.0f);
  decode_rows(format, from, stride, count, fast.data());
  decode_rows_plain(format, from, stride, count, plain.data());
  EXPECT_TRUE(same_bits(fast, plain)) << format.to_string();
  std::vector<uint16_t> fast_half(size + 1, 7), plain_half(size + 1, 7);
  decode_rows_bf16(format, from, stride, count, fast_half.data());
  decode_rows_bf16_plain(format, from, stride, count, plain_half.data());
  EXPECT_TRUE(same_bits(fast_half, plain_half)) << format.to_string();
  EXPECT_EQ(7.0f, fast.back()) << "written past the end";
  EXPECT_EQ(7, fast_half.back()) << "written past the end";
}

TEST(RowCodec, VectorCodeEqualsPlainOnRandomBytes) {
  for (const int64_t width : {2, 6, 30, 32, 80, 160, 256, 258, 1000}) {
    std::vector<RowFormat> formats = {
        {RowType::kFP32, width}, {RowType::kBF16, width}, {RowType::kFP8, width, 0, 0.000199f}};
    for (const int64_t block : {int64_t{2}, int64_t{16}, int64_t{32}, int64_t{600}, width}) {
      if (block > width) continue;
      for (const RowType type : {RowType::kFP8, RowType::kInt8, RowType::kInt4})
        formats.push_back({type, width, block});
    }
    for (const RowFormat& format : formats) {
      ASSERT_TRUE(format.check().ok()) << format.check().message();
      const size_t stride = static_cast<size_t>(format.row_bytes()) + 3;
      expect_equal_decoders(format, random_bytes(stride * 40 + 1, static_cast<uint32_t>(width)), stride, 40);
    }
  }
}

// 256 rows of {fp8, 256 columns, a scale per 32}: row s holds all codes under scale byte s.
std::vector<std::byte> all_products() {
  std::vector<std::byte> rows;
  for (int scale = 0; scale < 256; ++scale) {
    for (int code = 0; code < 256; ++code) rows.push_back(static_cast<std::byte>(code));
    rows.insert(rows.end(), 8, static_cast<std::byte>(scale));
  }
  return rows;
}

TEST(RowCodec, EveryFp8CodeUnderEveryScaleEqualsPlain) {
  std::vector<std::byte> rows = all_products();
  rows.insert(rows.begin(), std::byte{0});
  expect_equal_decoders({RowType::kFP8, 256, 32}, rows, 264, 256);
}

class TorchVectors : public testing::Test {
 protected:
  void SetUp() override {
    file_.emplace(
        value_or_throw(SafetensorsFile::open(Env::posix(), ENGRAM_SOURCE_DIR "/tests/parity/row_codec.safetensors")));
    digests_ = nlohmann::json::parse(file_->metadata().at("digests"));
  }
  template <typename T>
  std::vector<T> tensor(const std::string& name) {
    const TensorView view = value_or_throw(file_->find(name));
    std::vector<T> values(view.bytes.size() / sizeof(T));
    std::memcpy(values.data(), view.bytes.data(), view.bytes.size());
    return values;
  }
  std::optional<SafetensorsFile> file_;
  nlohmann::json digests_;
};

TEST_F(TorchVectors, Codes) {
  std::vector<float> e4m3, e8m0;
  for (int code = 0; code < 256; ++code) {
    e4m3.push_back(decode_e4m3(static_cast<uint8_t>(code)));
    e8m0.push_back(decode_e8m0(static_cast<uint8_t>(code)));
  }
  EXPECT_TRUE(same_bits(tensor<float>("e4m3"), e4m3));
  EXPECT_TRUE(same_bits(tensor<float>("e8m0"), e8m0));
  EXPECT_EQ(0x00400000u, std::bit_cast<uint32_t>(e8m0[0]));
  EXPECT_TRUE(std::isnan(e8m0[255]));
}

TEST_F(TorchVectors, AllProducts) {
  const RowFormat format{RowType::kFP8, 256, 32};
  const std::vector<std::byte> rows = all_products();
  const std::vector<float> products = decode(format, rows, 256);
  std::vector<uint16_t> halves(products.size());
  decode_rows_bf16(format, rows.data(), 264, 256, halves.data());
  EXPECT_EQ(digests_["products_sha256"], digest(products));
  EXPECT_EQ(digests_["products_bf16_sha256"], digest(halves));
}

TEST_F(TorchVectors, Rounding) {
  const auto values = tensor<float>("values");
  const auto e4m3 = tensor<uint8_t>("values_e4m3");
  const auto bf16 = tensor<uint16_t>("values_bf16");
  ASSERT_GT(values.size(), 3000u);
  std::vector<uint16_t> narrowed(values.size());
  const RowFormat row{RowType::kFP32, static_cast<int64_t>(values.size())};
  decode_rows_bf16(row, reinterpret_cast<const std::byte*>(values.data()), 0, 1, narrowed.data());
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(e4m3[i], encode_e4m3(values[i])) << values[i];
    EXPECT_EQ(bf16[i], round_to_bf16(values[i])) << values[i];
    EXPECT_EQ(bf16[i], narrowed[i]) << values[i];
  }
}

TEST(RowCodec, ValuesByHand) {
  // 1.0 is 0x38; 2^(128 - 127) = 2; -1.0 is 0xB8; the smallest subnormal 0x01 is 2^-9.
  std::vector<std::byte> row(4 + 1);
  row = {std::byte{0x38}, std::byte{0xB8}, std::byte{0x01}, std::byte{0x7E}, std::byte{128}};
  EXPECT_EQ((std::vector<float>{2, -2, 0x1p-8f, 896}), decode({RowType::kFP8, 4, 4}, row, 1));
  row.pop_back();
  EXPECT_EQ((std::vector<float>{0.5f, -0.5f, 0x1p-10f, 224}), decode({RowType::kFP8, 4, 0, 0.5f}, row, 1));
  // Nibbles 1, -1, 7, -8 under a scale of 0.5.
  row = {std::byte{0xF1}, std::byte{0x87}, std::byte{0}, std::byte{0}, std::byte{0}, std::byte{0x3F}};
  EXPECT_EQ((std::vector<float>{0.5f, -0.5f, 3.5f, -4}), decode({RowType::kInt4, 4, 4}, row, 1));
  row = {std::byte{0x80}, std::byte{0x7F}, std::byte{0}, std::byte{0}, std::byte{0}, std::byte{0x3F}};
  EXPECT_EQ((std::vector<float>{-64, 63.5f}), decode({RowType::kInt8, 2, 2}, row, 1));
}

TEST(RowCodec, Fp8RowsSurviveDecodingAndEncoding) {
  const RowFormat format{RowType::kFP8, 256, 32};
  std::mt19937 generator(5);
  std::vector<std::byte> rows(264 * 64);
  for (size_t i = 0; i < rows.size(); ++i) {
    const bool is_scale = i % 264 >= 256;
    uint32_t byte = is_scale ? 100 + generator() % 50 : generator() % 256;
    if (!is_scale && (byte & 0x7F) == 0x7F) byte ^= 1;
    rows[i] = static_cast<std::byte>(byte);
  }
  const std::vector<float> values = decode(format, rows, 64);
  std::vector<std::byte> again(rows.size());
  ASSERT_TRUE(encode_rows(format, values.data(), 64, again.data()).ok());
  EXPECT_TRUE(same_bits(values, decode(format, again, 64)));
}

// Every encoder is within half a step of the values it was given.
TEST(RowCodec, EncodingErrorIsHalfAStep) {
  std::mt19937 generator(9);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<float> values(160 * 20);
  for (float& value : values) value = normal(generator);
  std::fill_n(values.begin(), 40, 0.0f);
  for (const RowFormat& format :
       {RowFormat{RowType::kFP32, 160}, RowFormat{RowType::kBF16, 160}, RowFormat{RowType::kFP8, 160, 32},
        RowFormat{RowType::kFP8, 160, 0, 0.001f}, RowFormat{RowType::kInt8, 160, 160},
        RowFormat{RowType::kInt8, 160, 32}, RowFormat{RowType::kInt4, 160, 160}, RowFormat{RowType::kInt4, 160, 24}}) {
    std::vector<std::byte> rows(static_cast<size_t>(format.row_bytes() * 20));
    ASSERT_TRUE(encode_rows(format, values.data(), 20, rows.data()).ok());
    const std::vector<float> decoded = decode(format, rows, 20);
    const int64_t block = format.block == 0 ? 160 : format.block;
    for (size_t i = 0; i < values.size(); ++i) {
      const size_t row = i / 160 * 160,
                   first = row + (i - row) / static_cast<size_t>(block) * static_cast<size_t>(block);
      const size_t last = std::min(first + static_cast<size_t>(block), row + 160);
      float largest = 0;
      for (size_t j = first; j < last; ++j) largest = std::max(largest, std::fabs(values[j]));
      double bound = 0;
      if (format.type == RowType::kBF16) bound = std::fabs(values[i]) / 256;
      if (format.type == RowType::kFP8)
        bound = std::max<double>(std::fabs(values[i]) / 16, (format.block ? largest / 224 : 0.001) * 0x1p-10);
      if (format.type == RowType::kInt8) bound = largest / 254 * 1.001;
      if (format.type == RowType::kInt4) bound = largest / 14 * 1.001;
      EXPECT_LE(std::fabs(decoded[i] - values[i]), bound) << format.to_string() << " column " << i % 160;
    }
  }
}

TEST(RowCodec, EncodingRefusesWhatCannotBeHeld) {
  std::vector<float> values(8, 1.0f);
  std::vector<std::byte> rows(64);
  values[5] = std::numeric_limits<float>::infinity();
  for (const RowFormat& format : {RowFormat{RowType::kFP8, 4, 4}, RowFormat{RowType::kFP8, 4, 0, 1.0f},
                                  RowFormat{RowType::kInt8, 4, 4}, RowFormat{RowType::kInt4, 4, 4}}) {
    const Status status = encode_rows(format, values.data(), 2, rows.data());
    EXPECT_EQ(StatusCode::kInvalidArgument, status.code());
    EXPECT_NE(std::string::npos, status.message().find("row 1 column 1 is inf")) << status.message();
  }
  EXPECT_TRUE(encode_rows({RowType::kBF16, 4}, values.data(), 2, rows.data()).ok());
}

#ifdef __SSE__
// Commands that compute with torch flush denormals, and the scale of such a block is one.
TEST(RowCodec, TinyBlocksWhereDenormalsAreFlushed) {
  const std::vector<float> values = {2e-37f, -1e-37f, 3e-38f, 0};
  std::vector<std::byte> wanted(5), got(5);
  ASSERT_TRUE(encode_rows({RowType::kFP8, 4, 4}, values.data(), 1, wanted.data()).ok());
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040);
  const bool ok = encode_rows({RowType::kFP8, 4, 4}, values.data(), 1, got.data()).ok();
  _mm_setcsr(before);
  ASSERT_TRUE(ok);
  EXPECT_EQ(wanted, got);
  EXPECT_EQ(std::byte{0}, wanted[4]);
}
#endif

TEST(RowCodec, TinyAndHugeBlocks) {
  for (const float value : {1e-45f, 3e-38f, 3.4e38f, -3.4e38f, 0.0f, -0.0f}) {
    std::vector<float> values(4, value);
    std::vector<std::byte> rows(16);
    ASSERT_TRUE(encode_rows({RowType::kFP8, 4, 4}, values.data(), 1, rows.data()).ok());
    EXPECT_NEAR(value, decode({RowType::kFP8, 4, 4}, rows, 1)[3], std::fabs(value) / 16 + 0x1p-137f);
    for (const RowType type : {RowType::kInt8, RowType::kInt4}) {
      ASSERT_TRUE(encode_rows({type, 4, 4}, values.data(), 1, rows.data()).ok());
      EXPECT_NEAR(value, decode({type, 4, 4}, rows, 1)[3], std::fabs(value) / 16 + 2e-36f);
    }
  }
}

TEST(RowFormat, SizesAndNames) {
  EXPECT_EQ(264, (RowFormat{RowType::kFP8, 256, 32}.row_bytes()));
  EXPECT_EQ(160, (RowFormat{RowType::kFP8, 160, 0, 0.1f}.row_bytes()));
  EXPECT_EQ(1024, (RowFormat{RowType::kFP32, 256}.row_bytes()));
  EXPECT_EQ(512, (RowFormat{RowType::kBF16, 256}.row_bytes()));
  EXPECT_EQ(260, (RowFormat{RowType::kInt8, 256, 256}.row_bytes()));
  EXPECT_EQ(128 + 8 * 4, (RowFormat{RowType::kInt4, 256, 32}.row_bytes()));
  EXPECT_EQ("fp8, 256 columns, a scale per 32", (RowFormat{RowType::kFP8, 256, 32}.to_string()));
  for (const char* name : {"fp32", "bf16", "fp8", "int8", "int4"}) {
    const Result<RowType> type = parse_row_type(name);
    ASSERT_TRUE(type.ok());
    EXPECT_STREQ(name, row_type_name(*type));
    EXPECT_TRUE(default_row_format(*type, 20).check().ok());
  }
  EXPECT_FALSE(parse_row_type("fp16").ok());
}

TEST(RowFormat, CheckRefuses) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  for (const RowFormat& format :
       {RowFormat{RowType::kFP32, 0}, RowFormat{RowType::kFP32, kMaxRowWidth + 1}, RowFormat{RowType::kBF16, 4, 4},
        RowFormat{RowType::kFP8, 4, 5}, RowFormat{RowType::kFP8, 4, -1}, RowFormat{RowType::kInt8, 4, 0},
        RowFormat{RowType::kInt4, 5, 4}, RowFormat{RowType::kInt4, 6, 3}, RowFormat{RowType::kFP8, 4, 0, 0.0f},
        RowFormat{RowType::kFP8, 4, 0, nan}, RowFormat{RowType::kFP8, 4, 0, inf}, RowFormat{RowType::kFP8, 4, 4, 2.0f},
        RowFormat{RowType::kInt8, 4, 4, 2.0f}}) {
    EXPECT_FALSE(format.check().ok()) << format.to_string();
  }
}

}  // namespace
}  // namespace engram
