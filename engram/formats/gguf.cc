#include "engram/formats/gguf.h"

#include <algorithm>
#include <cstring>

#include "engram/core/json.h"

namespace engram {
namespace {

constexpr uint64_t kMaxCount = 1 << 20;   // keys, tensors
constexpr uint64_t kMaxKeyBytes = 65535;  // the format's own limit
constexpr uint32_t kMaxDimensions = 4;    // ggml's
constexpr uint32_t kFloat32 = 6, kBool = 7, kString = 8, kArray = 9, kFloat64 = 12;

// Bytes of one element; 0 for a string, an array or an unknown type.
size_t scalar_size(uint32_t type) {
  constexpr size_t kSizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return type < std::size(kSizes) ? kSizes[type] : 0;
}

class Reader {
 public:
  Reader(std::span<const std::byte> bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  size_t at() const { return at_; }
  Status skip(uint64_t count, const char* what) {
    if (count > bytes_.size() - at_)
      return data_loss("{}: {} of {} bytes at byte {}, the file ends at {}", name_, what, count, at_, bytes_.size());
    at_ += static_cast<size_t>(count);
    return {};
  }
  template <typename T>
  Result<T> read(const char* what) {
    ENGRAM_RETURN_IF_ERROR(skip(sizeof(T), what));
    T value;
    std::memcpy(&value, bytes_.data() + at_ - sizeof(T), sizeof(T));
    return value;
  }
  Result<std::string> read_string(const char* what, uint64_t most) {
    ENGRAM_ASSIGN_OR_RETURN(const uint64_t length, read<uint64_t>(what));
    if (length > most) return data_loss("{}: {} of {} bytes, wanted at most {}", name_, what, length, most);
    ENGRAM_RETURN_IF_ERROR(skip(length, what));
    return std::string(reinterpret_cast<const char*>(bytes_.data()) + at_ - length, static_cast<size_t>(length));
  }

  Result<GgufValue> read_value(const std::string& key) {
    GgufValue value;
    ENGRAM_ASSIGN_OR_RETURN(value.type, read<uint32_t>("a value's type"));
    if (value.type == kArray) {
      value.is_array = true;
      ENGRAM_ASSIGN_OR_RETURN(value.type, read<uint32_t>("an array's type"));
      ENGRAM_ASSIGN_OR_RETURN(value.count, read<uint64_t>("an array's length"));
    }
    const size_t begin = at_, size = scalar_size(value.type);
    if (value.type == kString) {
      // Each string has a length of 8 bytes at least, so that a huge count runs out of file.
      for (uint64_t i = 0; i < value.count; ++i) {
        ENGRAM_ASSIGN_OR_RETURN(const uint64_t length, read<uint64_t>("a string's length"));
        ENGRAM_RETURN_IF_ERROR(skip(length, "a string"));
      }
    } else if (size == 0) {
      return data_loss("{}: key {} has type {}{}, which is not supported", name_, quote_text(key), value.type,
                       value.is_array ? " in an array" : "");
    } else {
      if (value.count > (bytes_.size() - at_) / size)
        return data_loss("{}: key {} has {} elements of {} bytes at byte {}, the file ends at {}", name_,
                         quote_text(key), value.count, size, at_, bytes_.size());
      at_ += static_cast<size_t>(value.count) * size;
    }
    value.bytes = bytes_.subspan(begin, at_ - begin);
    return value;
  }

  Result<GgufTensor> read_tensor(const std::string& tensor, uint64_t* offset) {
    GgufTensor result;
    ENGRAM_ASSIGN_OR_RETURN(const uint32_t dimensions, read<uint32_t>("a tensor's dimensions"));
    if (dimensions > kMaxDimensions)
      return data_loss("{}: tensor {} has {} dimensions, wanted at most {}", name_, quote_text(tensor), dimensions,
                       kMaxDimensions);
    for (uint32_t i = 0; i < dimensions; ++i) {
      ENGRAM_ASSIGN_OR_RETURN(const uint64_t size, read<uint64_t>("a tensor's shape"));
      if (size > static_cast<uint64_t>(INT64_MAX))
        return data_loss("{}: tensor {} has a dimension of {}", name_, quote_text(tensor), size);
      result.shape.push_back(static_cast<int64_t>(size));
    }
    ENGRAM_ASSIGN_OR_RETURN(result.type, read<uint32_t>("a tensor's type"));
    ENGRAM_ASSIGN_OR_RETURN(*offset, read<uint64_t>("a tensor's offset"));
    return result;
  }

 private:
  const std::span<const std::byte> bytes_;
  const std::string& name_;
  size_t at_ = 0;
};

int64_t element(const GgufValue& value, uint64_t index, bool* fits) {
  const std::byte* at = value.bytes.data() + index * scalar_size(value.type);
  const auto load = [&](auto typed) {
    std::memcpy(&typed, at, sizeof typed);
    return static_cast<int64_t>(typed);
  };
  *fits = true;
  switch (value.type) {
    case 0: return load(uint8_t{});
    case 1: return load(int8_t{});
    case 2: return load(uint16_t{});
    case 3: return load(int16_t{});
    case 4: return load(uint32_t{});
    case 5: return load(int32_t{});
    case 10: {
      const int64_t integer = load(uint64_t{});
      *fits = integer >= 0;  // 2^63 and above wrap to negative numbers
      return integer;
    }
    case 11: return load(int64_t{});
    default: *fits = false; return 0;
  }
}

}  // namespace

Result<GgufFile> GgufFile::open_part(Env& env, const std::string& path) {
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> file, env.map_file(path));
  ENGRAM_ASSIGN_OR_RETURN(GgufFile result, parse(file->bytes(), path));
  result.files_.push_back(std::move(file));
  return result;
}

Result<GgufFile> GgufFile::open(Env& env, const std::string& path) {
  ENGRAM_ASSIGN_OR_RETURN(GgufFile named, open_part(env, path));
  if (!named.has("split.count")) return named;
  ENGRAM_ASSIGN_OR_RETURN(const int64_t count, named.integer("split.count"));
  if (count <= 1) return named;
  ENGRAM_ASSIGN_OR_RETURN(const int64_t number, named.integer("split.no"));
  const auto ending = [&](int64_t part) { return fmt::format("-{:05}-of-{:05}.gguf", part + 1, count); };
  if (number < 0 || number >= count || !path.ends_with(ending(number)))
    return data_loss("{}: part {} of {}, wanted a name that ends in {}", path, number, count, ending(number));
  const std::string stem = path.substr(0, path.size() - ending(number).size());
  std::vector<GgufFile> parts;
  for (int64_t part = 0; part < count; ++part) {
    ENGRAM_ASSIGN_OR_RETURN(GgufFile opened, open_part(env, stem + ending(part)));
    parts.push_back(std::move(opened));
  }
  return join(std::move(parts));
}

Result<GgufFile> GgufFile::join(std::vector<GgufFile> parts) {
  if (parts.empty()) return data_loss("a GGUF file of no parts");
  GgufFile& first = parts[0];
  for (size_t i = 0; i < parts.size(); ++i) {
    GgufFile& part = parts[i];
    const std::pair<const char*, int64_t> wanted[] = {{"split.no", static_cast<int64_t>(i)},
                                                      {"split.count", static_cast<int64_t>(parts.size())}};
    for (const auto& [key, value] : wanted) {
      ENGRAM_ASSIGN_OR_RETURN(const int64_t got, part.integer(key));
      if (got != value) return data_loss("{}: {} is {}, wanted {}", part.path_, key, got, value);
    }
    if (i == 0) continue;
    // Later parts have few keys or all of them.
    for (const auto& [key, value] : part.values_) {
      const auto same = first.values_.find(key);
      if (key != "split.no" && same != first.values_.end() && !std::ranges::equal(same->second.bytes, value.bytes))
        return data_loss("{}: key {} is not that of {}: a part of another model", part.path_, quote_text(key),
                         first.path_);
    }
    for (auto& [name, tensor] : part.tensors_) {
      if (!first.tensors_.emplace(name, std::move(tensor)).second)
        return data_loss("{}: tensor {} is in an earlier part too", part.path_, quote_text(name));
    }
    for (auto& file : part.files_) first.files_.push_back(std::move(file));
  }
  if (first.has("split.tensors.count")) {
    ENGRAM_ASSIGN_OR_RETURN(const int64_t wanted, first.integer("split.tensors.count"));
    if (wanted != static_cast<int64_t>(first.tensors_.size()))
      return data_loss("{}: its {} parts have {} tensors, wanted {}", first.path_, parts.size(), first.tensors_.size(),
                       wanted);
  }
  return std::move(first);
}

Status GgufFile::readable() const {
  for (const auto& file : files_) ENGRAM_RETURN_IF_ERROR(file->readable());
  return {};
}

Result<GgufFile> GgufFile::parse(std::span<const std::byte> bytes, const std::string& name) {
  Reader reader(bytes, name);
  ENGRAM_ASSIGN_OR_RETURN(const uint32_t magic, reader.read<uint32_t>("the magic"));
  if (magic != 0x46554747) return data_loss("{}: not a GGUF file: it starts with {:08x}", name, magic);
  ENGRAM_ASSIGN_OR_RETURN(const uint32_t version, reader.read<uint32_t>("the version"));
  if (version != 2 && version != 3)
    return data_loss("{}: GGUF version is {}, wanted 2 or 3 (little-endian)", name, version);
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t num_tensors, reader.read<uint64_t>("the number of tensors"));
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t num_values, reader.read<uint64_t>("the number of keys"));
  if (num_tensors > kMaxCount || num_values > kMaxCount)
    return data_loss("{}: {} tensors and {} keys, wanted at most {}", name, num_tensors, num_values, kMaxCount);

  GgufFile file;
  file.path_ = name;
  for (uint64_t i = 0; i < num_values; ++i) {
    ENGRAM_ASSIGN_OR_RETURN(std::string key, reader.read_string("a key", kMaxKeyBytes));
    ENGRAM_ASSIGN_OR_RETURN(const GgufValue value, reader.read_value(key));
    if (!file.values_.emplace(key, value).second) return data_loss("{}: key {} appears twice", name, quote_text(key));
  }
  std::vector<std::pair<GgufTensor*, uint64_t>> offsets;
  for (uint64_t i = 0; i < num_tensors; ++i) {
    ENGRAM_ASSIGN_OR_RETURN(std::string tensor, reader.read_string("a tensor's name", kMaxKeyBytes));
    uint64_t offset = 0;
    ENGRAM_ASSIGN_OR_RETURN(GgufTensor info, reader.read_tensor(tensor, &offset));
    const auto [at, is_new] = file.tensors_.emplace(tensor, std::move(info));
    if (!is_new) return data_loss("{}: tensor {} appears twice", name, quote_text(tensor));
    offsets.emplace_back(&at->second, offset);
  }
  int64_t alignment = 32;
  if (file.has("general.alignment")) {
    ENGRAM_ASSIGN_OR_RETURN(alignment, file.integer("general.alignment"));
    if (alignment < 1 || alignment > (1 << 20) || (alignment & (alignment - 1)) != 0)
      return data_loss("{}: general.alignment is {}, wanted a power of two", name, alignment);
  }
  const auto step = static_cast<uint64_t>(alignment);
  const uint64_t data = (reader.at() + step - 1) / step * step;
  for (auto& [tensor, offset] : offsets) {
    if (offset % step != 0 || data > bytes.size() || offset > bytes.size() - data)
      return data_loss("{}: a tensor's data at offset {}, wanted a multiple of {} inside the {} bytes of data", name,
                       offset, step, data > bytes.size() ? 0 : bytes.size() - data);
    tensor->bytes = bytes.subspan(static_cast<size_t>(data + offset));
  }
  return file;
}

Result<const GgufValue*> GgufFile::find(std::string_view key) const {
  const auto at = values_.find(key);
  if (at == values_.end()) return invalid_argument("{}: key {} is missing", path_, key);
  return &at->second;
}

Result<std::vector<int64_t>> GgufFile::integers(std::string_view key, uint64_t most) const {
  ENGRAM_ASSIGN_OR_RETURN(const GgufValue* value, find(key));
  if (value->count > most)
    return invalid_argument("{}: key {} has {} elements, wanted at most {}", path_, key, value->count, most);
  std::vector<int64_t> result;
  for (uint64_t i = 0; i < value->count; ++i) {
    bool fits = false;
    result.push_back(element(*value, i, &fits));
    if (!fits) return invalid_argument("{}: key {} has type {}, wanted integers below 2^63", path_, key, value->type);
  }
  return result;
}

Result<int64_t> GgufFile::integer(std::string_view key) const {
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<int64_t> list, integers(key, 1));
  if (list.empty()) return invalid_argument("{}: key {} is an empty list, wanted an integer", path_, key);
  return list[0];
}

Result<std::vector<double>> GgufFile::numbers(std::string_view key, uint64_t most) const {
  ENGRAM_ASSIGN_OR_RETURN(const GgufValue* value, find(key));
  if (value->type != kFloat32 && value->type != kFloat64) {
    ENGRAM_ASSIGN_OR_RETURN(const std::vector<int64_t> list, integers(key, most));
    return std::vector<double>(list.begin(), list.end());
  }
  if (value->count > most)
    return invalid_argument("{}: key {} has {} elements, wanted at most {}", path_, key, value->count, most);
  std::vector<double> result;
  for (uint64_t i = 0; i < value->count; ++i) {
    const std::byte* at = value->bytes.data() + i * scalar_size(value->type);
    float narrow;
    double wide;
    std::memcpy(&narrow, at, sizeof narrow);
    if (value->type == kFloat64) std::memcpy(&wide, at, sizeof wide);
    result.push_back(value->type == kFloat64 ? wide : narrow);
  }
  return result;
}

Result<double> GgufFile::number(std::string_view key) const {
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<double> list, numbers(key, 1));
  if (list.empty()) return invalid_argument("{}: key {} is an empty list, wanted a number", path_, key);
  return list[0];
}

Result<bool> GgufFile::boolean(std::string_view key) const {
  ENGRAM_ASSIGN_OR_RETURN(const GgufValue* value, find(key));
  if (value->type != kBool || value->is_array)
    return invalid_argument("{}: key {} has type {}, wanted true or false", path_, key, value->type);
  return value->bytes[0] != std::byte{0};
}

Result<std::vector<std::string>> GgufFile::strings(std::string_view key, uint64_t most) const {
  ENGRAM_ASSIGN_OR_RETURN(const GgufValue* value, find(key));
  if (value->type != kString || value->count > most)
    return invalid_argument("{}: key {} holds {} elements of type {}, wanted at most {} strings", path_, key,
                            value->count, value->type, most);
  std::vector<std::string> result;
  const std::byte* at = value->bytes.data();
  for (uint64_t i = 0; i < value->count; ++i) {
    uint64_t length;  // checked when the file was parsed
    std::memcpy(&length, at, sizeof length);
    result.emplace_back(reinterpret_cast<const char*>(at) + sizeof length, static_cast<size_t>(length));
    at += sizeof length + length;
  }
  return result;
}

Result<std::string> GgufFile::string(std::string_view key) const {
  ENGRAM_ASSIGN_OR_RETURN(const GgufValue* value, find(key));
  if (value->is_array) return invalid_argument("{}: key {} is a list, wanted a string", path_, key);
  ENGRAM_ASSIGN_OR_RETURN(std::vector<std::string> list, strings(key, 1));
  return std::move(list[0]);
}

}  // namespace engram
