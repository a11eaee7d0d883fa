// Safetensors files: 8 bytes of little-endian header length, a JSON header, raw little-endian data.
//
// The reader treats a file as hostile: header length, JSON, shapes, offsets (ascending, contiguous from 0 to the end of
// the file, sizes that equal shape x dtype) are checked before any tensor is seen. A dtype that is not known here is an
// error only for who asks for the tensor: checkpoints mix dtypes, and new ones keep coming. Files open with the
// Python package `safetensors`, and its files open here. Format: huggingface/safetensors README.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"

namespace engram {

enum class DType {
  kF64,
  kF32,
  kF16,
  kBF16,
  kI64,
  kI32,
  kI16,
  kI8,
  kU8,
  kU16,
  kU32,
  kU64,
  kBool,
  kF8E4M3,
  kF8E5M2,
  kF8E8M0
};

size_t dtype_size(DType dtype);
const char* dtype_name(DType dtype);  // "F32", "BF16", "F8_E4M3", ...
Result<DType> parse_dtype(const std::string& name);

struct TensorSpec {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  int64_t num_elements() const;
  int64_t num_bytes() const;
};

// A view into an open file; valid as long as the SafetensorsFile lives.
struct TensorView {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;  // may be unaligned for its dtype: copy with memcpy
};

inline constexpr size_t kTensorNameBytes = 160;  // of a name in a message: they are long, and differ at their end
std::string shape_text(const std::vector<int64_t>& shape);  // "[3, 4]"
// kInvalidArgument where shape or dtype are not as wanted; the message begins with `file` and the tensor's `name`.
Status check_tensor(const TensorView& view, const std::string& file, const std::string& name,
                    const std::vector<DType>& dtypes, const std::vector<int64_t>& shape);

// Immutable after open(); threads may share one. Move-only.
class SafetensorsFile {
 public:
  // kNotFound, kDataLoss (truncated or inconsistent; the message says what, got, wanted).
  static Result<SafetensorsFile> open(Env& env, const std::string& path);
  // The same checks over bytes in memory (fuzzing); `bytes` must outlive the object.
  static Result<SafetensorsFile> parse(std::span<const std::byte> bytes, const std::string& name);

  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // Tensors of dtypes that are not known here, with the dtype as the file names it. Their sizes are not checked.
  const std::map<std::string, std::string>& unknown() const { return unknown_; }
  // kNotFound names the file and the tensor; kUnimplemented: its dtype is not known here.
  Result<TensorView> find(const std::string& name) const;
  // For after the tensors' bytes were used: kDataLoss where the file was cut or written to since it was opened.
  Status check_unchanged() const;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  std::unique_ptr<MappedFile> file_;
  std::map<std::string, TensorView> tensors_;
  std::map<std::string, std::string> unknown_;
  std::map<std::string, std::string> metadata_;
};

// Streams one file: declare every tensor, then append their bytes in the declared order. The file appears under its
// name only in finish() (temporary name, fsync, rename). Destroyed before finish(), it removes its temporary file.
class SafetensorsWriter {
 public:
  static Result<std::unique_ptr<SafetensorsWriter>> create(Env& env, const std::string& path,
                                                           const std::vector<TensorSpec>& tensors,
                                                           const std::map<std::string, std::string>& metadata = {});
  ~SafetensorsWriter();
  // Appends part of or all of the current tensor, or several. kInvalidArgument: more bytes than declared; nothing is
  // written. After an error of the file every later call returns that error.
  Status append(std::span<const std::byte> bytes);
  // kFailedPrecondition: fewer bytes than declared.
  Status finish();

 private:
  SafetensorsWriter() = default;
  Env* env_ = nullptr;
  std::string path_, temporary_path_;
  std::unique_ptr<WritableFile> file_;
  int64_t declared_bytes_ = 0, written_bytes_ = 0;
  Status error_;
};

}  // namespace engram
