#include "engram/formats/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <set>

#include "engram/core/file_kind.h"
#include "engram/core/json.h"

namespace engram {
namespace {

// The Python package's own limit.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kLengthBytes = 8;
constexpr const char* kMetadataKey = "__metadata__";

struct DTypeInfo {
  DType dtype;
  const char* name;
  size_t size;
};
constexpr std::array kDTypes = {
    DTypeInfo{DType::kF64, "F64", 8},        DTypeInfo{DType::kF32, "F32", 4},
    DTypeInfo{DType::kF16, "F16", 2},        DTypeInfo{DType::kBF16, "BF16", 2},
    DTypeInfo{DType::kI64, "I64", 8},        DTypeInfo{DType::kI32, "I32", 4},
    DTypeInfo{DType::kI16, "I16", 2},        DTypeInfo{DType::kI8, "I8", 1},
    DTypeInfo{DType::kU8, "U8", 1},          DTypeInfo{DType::kU16, "U16", 2},
    DTypeInfo{DType::kU32, "U32", 4},        DTypeInfo{DType::kU64, "U64", 8},
    DTypeInfo{DType::kBool, "BOOL", 1},      DTypeInfo{DType::kF8E4M3, "F8_E4M3", 1},
    DTypeInfo{DType::kF8E5M2, "F8_E5M2", 1}, DTypeInfo{DType::kF8E8M0, "F8_E8M0", 1},
};

const DTypeInfo& dtype_info(DType dtype) {
  for (const DTypeInfo& info : kDTypes) {
    if (info.dtype == dtype) return info;
  }
  ENGRAM_CHECK(false, "dtype={}", static_cast<int>(dtype));
  std::abort();
}

// Bytes of shape x dtype; false on a negative size or one that does not fit 63 bits.
bool checked_bytes(const std::vector<int64_t>& shape, DType dtype, int64_t* bytes) {
  *bytes = static_cast<int64_t>(dtype_size(dtype));
  for (int64_t size : shape) {
    if (size < 0 || __builtin_mul_overflow(*bytes, size, bytes)) return false;
  }
  return true;
}

// One integer in [0, INT64_MAX], or -1.
int64_t natural_number(const nlohmann::json& value) {
  if (!value.is_number_integer()) return -1;
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) return -1;
  return std::max<int64_t>(value.get<int64_t>(), -1);
}

struct Entry {
  std::string name;
  TensorView view;
  std::optional<std::string> unknown_dtype;  // then view.dtype says nothing
  int64_t begin = 0, end = 0;
};

// "'FILE': tensor 'NAME': " + what is wrong, got, wanted.
Result<Entry> parse_entry(const std::string& file, const std::string& name, const nlohmann::json& value) {
  const std::string where = fmt::format("'{}': tensor {}", file, quote_text(name));
  Entry entry;
  entry.name = name;
  const nlohmann::json* dtype = json_find(value, "dtype");
  if (dtype == nullptr || !dtype->is_string()) return data_loss("{}: dtype: got no string, wanted a name", where);
  const Result<DType> parsed = parse_dtype(dtype->get<std::string>());
  if (parsed.ok())
    entry.view.dtype = *parsed;
  else
    entry.unknown_dtype = dtype->get<std::string>();

  const nlohmann::json* shape = json_find(value, "shape");
  if (shape == nullptr || !shape->is_array()) return data_loss("{}: shape: got no array, wanted [sizes]", where);
  for (const nlohmann::json& size : *shape) {
    entry.view.shape.push_back(natural_number(size));
    if (entry.view.shape.back() < 0) {
      return data_loss("{}: shape: got {}, wanted integers from 0 to 2^63 - 1", where, quote_text(size.dump()));
    }
  }
  const nlohmann::json* offsets = json_find(value, "data_offsets");
  if (offsets == nullptr || !offsets->is_array() || offsets->size() != 2) {
    return data_loss("{}: data_offsets: got no pair, wanted [begin, end]", where);
  }
  entry.begin = natural_number((*offsets)[0]);
  entry.end = natural_number((*offsets)[1]);
  if (entry.begin < 0 || entry.end < entry.begin) {
    return data_loss("{}: data_offsets: got {}, wanted 0 <= begin <= end", where, quote_text(offsets->dump()));
  }
  if (entry.unknown_dtype) return entry;
  int64_t bytes = 0;
  if (!checked_bytes(entry.view.shape, entry.view.dtype, &bytes)) {
    return data_loss("{}: shape {} of {} has more than 2^63 - 1 bytes", where, quote_text(shape->dump()),
                     dtype_name(*parsed));
  }
  if (bytes != entry.end - entry.begin) {
    return data_loss("{}: data_offsets {} hold {} bytes, wanted {} for shape {} of {}", where,
                     quote_text(offsets->dump()), entry.end - entry.begin, bytes, quote_text(shape->dump()),
                     dtype_name(*parsed));
  }
  return entry;
}

Result<std::map<std::string, std::string>> parse_metadata(const std::string& file, const nlohmann::json& value) {
  std::map<std::string, std::string> metadata;
  if (!value.is_object()) return data_loss("'{}': {}: got no object, wanted strings by name", file, kMetadataKey);
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) {
      return data_loss("'{}': {}: key {} holds no string", file, kMetadataKey, quote_text(key));
    }
    metadata[key] = text.get<std::string>();
  }
  return metadata;
}

// The header's text, after the length in front of it has been checked.
Result<std::string_view> header_text(std::span<const std::byte> bytes, const std::string& name) {
  if (bytes.size() < kLengthBytes) {
    return data_loss("'{}': got {} bytes, wanted at least 8 for the header's length", name, bytes.size());
  }
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) length |= static_cast<uint64_t>(bytes[i]) << (8 * i);
  if (length > kMaxHeaderBytes) {
    return data_loss("'{}': header length: got {}, wanted at most {} (not a safetensors file?)", name, length,
                     kMaxHeaderBytes);
  }
  if (length > bytes.size() - kLengthBytes) {
    return data_loss("'{}': header length: got {}, but only {} bytes follow (truncated file?)", name, length,
                     bytes.size() - kLengthBytes);
  }
  std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length);
  if (!text.starts_with('{')) return data_loss("'{}': header: wanted '{{' as its first byte", name);
  return text;
}

Result<std::string> header_json(const std::vector<TensorSpec>& tensors,
                                const std::map<std::string, std::string>& metadata, int64_t* data_bytes) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[kMetadataKey] = metadata;
  *data_bytes = 0;
  std::set<std::string> names;
  for (const TensorSpec& tensor : tensors) {
    if (tensor.name == kMetadataKey || !names.insert(tensor.name).second) {
      return invalid_argument("tensor name {} is taken", quote_text(tensor.name));
    }
    int64_t bytes = 0, end = 0;
    if (!checked_bytes(tensor.shape, tensor.dtype, &bytes) || __builtin_add_overflow(*data_bytes, bytes, &end)) {
      return invalid_argument("tensor {}: its shape is negative or too large", quote_text(tensor.name));
    }
    header[tensor.name] = {
        {"dtype", dtype_name(tensor.dtype)}, {"shape", tensor.shape}, {"data_offsets", {*data_bytes, end}}};
    *data_bytes = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception&) {
    return invalid_argument("a tensor name or the metadata is not UTF-8");
  }
  // Spaces up to a multiple of 8, so that the data starts aligned.
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > kMaxHeaderBytes) {
    return invalid_argument("header: got {} bytes, wanted at most {}", text.size(), kMaxHeaderBytes);
  }
  return text;
}

}  // namespace

size_t dtype_size(DType dtype) { return dtype_info(dtype).size; }
const char* dtype_name(DType dtype) { return dtype_info(dtype).name; }

Result<DType> parse_dtype(const std::string& name) {
  std::string known;
  for (const DTypeInfo& info : kDTypes) {
    if (name == info.name) return info.dtype;
    known += known.empty() ? info.name : std::string(" ") + info.name;
  }
  return data_loss("dtype: got {}, wanted one of {}", quote_text(name), known);
}

int64_t TensorSpec::num_elements() const {
  int64_t count = 1;
  for (int64_t size : shape) count *= size;
  return count;
}
int64_t TensorSpec::num_bytes() const { return num_elements() * static_cast<int64_t>(dtype_size(dtype)); }

std::string shape_text(const std::vector<int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

Status check_tensor(const TensorView& view, const std::string& file, const std::string& name,
                    const std::vector<DType>& dtypes, const std::vector<int64_t>& shape) {
  const std::string where = fmt::format("{}: tensor {}", file, quote_text(name, kTensorNameBytes));
  if (view.shape != shape)
    return invalid_argument("{}: got shape {}, wanted {}", where, shape_text(view.shape), shape_text(shape));
  if (std::find(dtypes.begin(), dtypes.end(), view.dtype) != dtypes.end()) return {};
  std::vector<const char*> wanted;
  for (const DType dtype : dtypes) wanted.push_back(dtype_name(dtype));
  return invalid_argument("{}: got dtype {}, wanted {}", where, dtype_name(view.dtype), fmt::join(wanted, " or "));
}

Result<SafetensorsFile> SafetensorsFile::parse(std::span<const std::byte> bytes, const std::string& name) {
  const Result<std::string_view> found = header_text(bytes, name);
  if (!found.ok()) {
    ENGRAM_RETURN_IF_ERROR(check_not_foreign(bytes.first(std::min<size_t>(bytes.size(), 512)), name));
    return found.status();
  }
  const std::string_view text = *found;
  // {"tensor": {"shape": [..]}} is three deep.
  ENGRAM_ASSIGN_OR_RETURN(nlohmann::json header, parse_json(text, name, 3));
  if (!header.is_object()) return data_loss("'{}': header: wanted a JSON object", name);

  SafetensorsFile file;
  file.path_ = name;
  std::vector<Entry> entries;
  for (const auto& [key, value] : header.items()) {
    if (key == kMetadataKey) {
      ENGRAM_ASSIGN_OR_RETURN(file.metadata_, parse_metadata(name, value));
      continue;
    }
    ENGRAM_ASSIGN_OR_RETURN(Entry entry, parse_entry(name, key, value));
    entries.push_back(std::move(entry));
  }

  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  std::span<const std::byte> data = bytes.subspan(kLengthBytes + text.size());
  int64_t position = 0;
  for (Entry& entry : entries) {
    if (entry.begin != position) {
      return data_loss("'{}': tensor {}: its data begins at {}, wanted {} (no gap, no overlap)", name,
                       quote_text(entry.name), entry.begin, position);
    }
    if (entry.end > static_cast<int64_t>(data.size())) {
      return data_loss("'{}': tensor {}: its data ends at {}, but the file holds {} bytes of data (truncated file?)",
                       name, quote_text(entry.name), entry.end, data.size());
    }
    entry.view.bytes = data.subspan(static_cast<size_t>(entry.begin), static_cast<size_t>(entry.end - entry.begin));
    position = entry.end;
    if (entry.unknown_dtype)
      file.unknown_.emplace(std::move(entry.name), std::move(*entry.unknown_dtype));
    else
      file.tensors_.emplace(std::move(entry.name), std::move(entry.view));
  }
  if (position != static_cast<int64_t>(data.size())) {
    return data_loss("'{}': got {} bytes of data, wanted {} as the header says", name, data.size(), position);
  }
  return file;
}

Result<SafetensorsFile> SafetensorsFile::open(Env& env, const std::string& path) {
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> mapped, env.map_file(path));
  ENGRAM_ASSIGN_OR_RETURN(SafetensorsFile file, parse(mapped->bytes(), path));
  file.file_ = std::move(mapped);
  return file;
}

Result<TensorView> SafetensorsFile::find(const std::string& name) const {
  if (const auto found = tensors_.find(name); found != tensors_.end()) return found->second;
  const auto unknown = unknown_.find(name);
  if (unknown == unknown_.end()) return not_found("'{}': no tensor {}", path_, quote_text(name));
  const Status dtype = parse_dtype(unknown->second).status();
  return make_status(StatusCode::kUnimplemented, "'{}': tensor {}: {}", path_, quote_text(name, kTensorNameBytes),
                     dtype.message());
}

Status SafetensorsFile::check_unchanged() const {
  if (!file_) return {};
  ENGRAM_RETURN_IF_ERROR(file_->readable());
  if (file_->has_changed()) return data_loss("'{}': the file was written to while it was read", path_);
  return {};
}

Result<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::create(
    Env& env, const std::string& path, const std::vector<TensorSpec>& tensors,
    const std::map<std::string, std::string>& metadata) {
  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter);
  Result<std::string> header = header_json(tensors, metadata, &writer->declared_bytes_);
  if (!header.ok()) return header.status().with_context(fmt::format("cannot write '{}'", path));
  std::array<std::byte, kLengthBytes> length;
  for (size_t i = 0; i < kLengthBytes; ++i) length[i] = static_cast<std::byte>(header->size() >> (8 * i));

  const std::string temporary = path + ".tmp";
  ENGRAM_ASSIGN_OR_RETURN(writer->file_, env.new_writable_file(temporary));
  writer->env_ = &env;
  writer->path_ = path;
  writer->temporary_path_ = temporary;  // from here on the destructor cleans up
  ENGRAM_RETURN_IF_ERROR(writer->file_->append(length));
  ENGRAM_RETURN_IF_ERROR(writer->file_->append(std::as_bytes(std::span(*header))));
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (temporary_path_.empty()) return;
  file_.reset();
  (void)env_->remove_file(temporary_path_);  // nobody is left to be told
}

Status SafetensorsWriter::append(std::span<const std::byte> bytes) {
  ENGRAM_RETURN_IF_ERROR(error_);
  if (bytes.size() > static_cast<uint64_t>(declared_bytes_ - written_bytes_)) {
    return invalid_argument("cannot write '{}': got {} bytes of tensors, wanted {} as declared", path_,
                            static_cast<uint64_t>(written_bytes_) + bytes.size(), declared_bytes_);
  }
  error_ = file_->append(bytes);
  if (error_.ok()) written_bytes_ += static_cast<int64_t>(bytes.size());
  return error_;
}

Status SafetensorsWriter::finish() {
  ENGRAM_RETURN_IF_ERROR(error_);
  if (temporary_path_.empty() || written_bytes_ != declared_bytes_) {
    return make_status(StatusCode::kFailedPrecondition, "cannot finish '{}': got {} bytes of tensors, wanted {}, once",
                       path_, written_bytes_, declared_bytes_);
  }
  ENGRAM_RETURN_IF_ERROR(file_->sync());
  ENGRAM_RETURN_IF_ERROR(file_->close());
  ENGRAM_RETURN_IF_ERROR(env_->rename_file(temporary_path_, path_));
  temporary_path_.clear();
  return env_->sync_directory(parent_path(path_));
}

}  // namespace engram
