// decode_rows_plain() against the kernel, bit for bit, on the CPU and, where there is one, on a GPU.
#include "engram/model/memory/row_decoding.h"

#include <torch/cuda.h>

#include <gtest/gtest.h>

#include <random>

#include "engram/kernels/row_codec.h"

namespace engram {
namespace {

std::vector<RowFormat> formats() {
  std::vector<RowFormat> out;
  for (const RowType type : {RowType::kFP32, RowType::kBF16, RowType::kFP8, RowType::kInt8, RowType::kInt4}) {
    out.push_back(default_row_format(type, 64));
  }
  out.push_back({RowType::kFP8, 10, 0, 0.25f});  // one scale for the table
  out.push_back({RowType::kFP8, 70, 32, 1.0f});  // the last block is shorter
  out.push_back({RowType::kInt8, 33, 8, 1.0f});  // scales at odd addresses
  out.push_back({RowType::kInt4, 70, 32, 1.0f});
  return out;
}

void expect_kernel(torch::Device device) {
  std::mt19937_64 random(1);
  for (const RowFormat& format : formats()) {
    ASSERT_TRUE(format.check().ok()) << format.to_string();
    constexpr int64_t kRows = 50;
    std::vector<float> values(static_cast<size_t>(kRows * format.width));
    for (float& v : values) v = (static_cast<float>(random() >> 40) * 0x1p-23f - 1.0f) * 3;
    torch::Tensor bytes = torch::empty({kRows, format.row_bytes()}, torch::kUInt8);
    auto* stored = reinterpret_cast<std::byte*>(bytes.mutable_data_ptr<uint8_t>());
    ASSERT_TRUE(encode_rows(format, values.data(), kRows, stored).ok());
    torch::Tensor wanted = torch::empty({kRows, format.width});
    decode_rows(format, stored, static_cast<size_t>(format.row_bytes()), kRows, wanted.mutable_data_ptr<float>());
    const torch::Tensor got = decode_rows_plain(format, bytes.to(device), torch::kFloat).to(torch::kCPU);
    EXPECT_TRUE(torch::equal(got, wanted)) << format.to_string();
    const torch::Tensor half = decode_rows_plain(format, bytes.to(device), torch::kBFloat16).to(torch::kCPU);
    EXPECT_TRUE(torch::equal(half, wanted.to(torch::kBFloat16))) << format.to_string();
  }
}

TEST(RowDecoding, EqualsTheKernel) { expect_kernel(torch::kCPU); }

TEST(RowDecoding, EqualsTheKernelOnAGpu) {
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no NVIDIA device";
  expect_kernel(torch::kCUDA);
}

TEST(RowDecoding, RefusesRowsOfAnotherSize) {
  const RowFormat format = default_row_format(RowType::kFP8, 64);
  EXPECT_THROW(decode_rows_plain(format, torch::zeros({3, 64}, torch::kUInt8), torch::kFloat), c10::Error);
  EXPECT_THROW(decode_rows_plain(format, torch::zeros({3, 66}, torch::kFloat), torch::kFloat), c10::Error);
}

}  // namespace
}  // namespace engram
