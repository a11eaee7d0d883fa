#include "engram/data/token_files.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

namespace engram {
namespace {

using Documents = std::vector<std::vector<int32_t>>;
static_assert(std::endian::native == std::endian::little, "both formats are little-endian and copied as they are");

constexpr size_t kLlmHeader = 256;  // int32
struct LlmKind {
  int32_t magic, version;
  int bytes;
};
constexpr LlmKind kLlmKinds[] = {{20240520, 1, 2}, {20240801, 7, 4}};

constexpr std::string_view kIndexMagic{"MMIDIDX\0\0", 9};
constexpr size_t kIndexHeader = 9 + 8 + 1 + 8 + 8;
// Types of Megatron's ids, by code; of the others ids are never made.
int bytes_of_type(uint8_t code) { return code == 8 ? 2 : code == 4 ? 4 : code == 5 ? 8 : 0; }

template <typename T>
T load(std::span<const std::byte> bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

int64_t id_at(std::span<const std::byte> bytes, size_t index, int width) {
  const size_t at = index * static_cast<size_t>(width);
  if (width == 2) return load<uint16_t>(bytes, at);
  return width == 4 ? load<int32_t>(bytes, at) : load<int64_t>(bytes, at);
}

bool is_llm(std::span<const std::byte> file) {
  return file.size() >= 4 * kLlmHeader &&
         std::ranges::find(kLlmKinds, load<int32_t>(file, 0), &LlmKind::magic) != std::end(kLlmKinds);
}

// Ids of one file, as documents.
class Reader {
 public:
  Reader(const std::string& path, int32_t vocab_size, int32_t end_of_text)
      : path_(path), vocab_size_(vocab_size), end_of_text_(end_of_text) {}

  Status add(std::span<const std::byte> ids, int width, std::vector<int32_t>& document) const {
    const size_t count = ids.size() / static_cast<size_t>(width);
    document.reserve(document.size() + count);
    for (size_t i = 0; i < count; ++i) {
      const int64_t id = id_at(ids, i, width);
      if (id < 0 || id >= vocab_size_)
        return invalid_argument("{}: got the id {}, wanted 0 to {}: is it of another tokenizer?", path_, id,
                                vocab_size_ - 1);
      document.push_back(static_cast<int32_t>(id));
    }
    return {};
  }

  Result<Documents> llm(std::span<const std::byte> file) const {
    if (!is_llm(file)) return invalid_argument("{}: got no token file of llm.c's", path_);
    const auto magic = load<int32_t>(file, 0), version = load<int32_t>(file, 4), count = load<int32_t>(file, 8);
    const auto kind = std::ranges::find(kLlmKinds, magic, &LlmKind::magic);
    if (version != kind->version)
      return invalid_argument("{}: got version {} of llm.c's token files, wanted {}", path_, version, kind->version);
    const std::span<const std::byte> ids = file.subspan(4 * kLlmHeader);
    if (count < 0 || static_cast<uint64_t>(count) * static_cast<uint64_t>(kind->bytes) != ids.size())
      return data_loss("{}: got {} bytes behind the header, wanted {} ids of {}", path_, ids.size(), count,
                       kind->bytes);
    std::vector<int32_t> all;
    ENGRAM_RETURN_IF_ERROR(add(ids, kind->bytes, all));
    Documents documents(1);
    for (const int32_t id : all) {
      if (id != end_of_text_) {
        documents.back().push_back(id);
      } else if (!documents.back().empty()) {
        documents.emplace_back();
      }
    }
    if (documents.back().empty()) documents.pop_back();
    return documents;
  }

  Result<Documents> megatron(std::span<const std::byte> index, std::span<const std::byte> ids) const {
    const auto version = load<uint64_t>(index, 9);
    const int width = bytes_of_type(load<uint8_t>(index, 17));
    const auto sequences = load<uint64_t>(index, 18), ends = load<uint64_t>(index, 26);
    if (version != 1) return invalid_argument("{}: got version {} of Megatron's index, wanted 1", path_, version);
    if (width == 0)
      return invalid_argument("{}: got ids of type {}, wanted 8 (uint16), 4 (int32) or 5 (int64)", path_,
                              load<uint8_t>(index, 17));
    const size_t rest = index.size() - kIndexHeader;
    if (sequences > rest / 12 || ends > rest / 8 || sequences * 12 + ends * 8 > rest || ends == 0)
      return data_loss("{}: got {} bytes behind the header, wanted {} sequences and {} documents", path_, rest,
                       sequences, ends == 0 ? 0 : ends - 1);
    const size_t offsets = kIndexHeader + sequences * 4, firsts = offsets + sequences * 8;
    Documents documents;
    for (uint64_t i = 0; i + 1 < ends; ++i) {
      const auto first = load<int64_t>(index, firsts + i * 8), last = load<int64_t>(index, firsts + (i + 1) * 8);
      if (first < 0 || last < first || last > static_cast<int64_t>(sequences))
        return data_loss("{}: document {} has the sequences {} to {} of {}", path_, i, first, last, sequences);
      std::vector<int32_t>& document = documents.emplace_back();
      for (auto sequence = static_cast<size_t>(first); sequence < static_cast<size_t>(last); ++sequence) {
        const auto length = load<int32_t>(index, kIndexHeader + sequence * 4);
        const auto offset = load<int64_t>(index, offsets + sequence * 8);
        if (length < 0 || offset < 0 || static_cast<uint64_t>(offset) > ids.size() ||
            static_cast<uint64_t>(length) * static_cast<uint64_t>(width) > ids.size() - static_cast<uint64_t>(offset))
          return data_loss("{}: sequence {} has {} ids at byte {}, and there are {} bytes of ids", path_, sequence,
                           length, offset, ids.size());
        const size_t bytes = static_cast<size_t>(length) * static_cast<size_t>(width);
        ENGRAM_RETURN_IF_ERROR(add(ids.subspan(static_cast<size_t>(offset), bytes), width, document));
      }
      while (!document.empty() && document.back() == end_of_text_) document.pop_back();
      if (document.empty()) documents.pop_back();
    }
    return documents;
  }

 private:
  const std::string& path_;
  const int32_t vocab_size_, end_of_text_;
};

// A file under a name of its own until all of it is there.
class NewFile {
 public:
  NewFile(Env& env, std::string path) : env_(env), path_(std::move(path)) {}
  ~NewFile() {
    if (file_) (void)env_.remove_file(path_ + ".tmp");
  }
  Status open() {
    ENGRAM_ASSIGN_OR_RETURN(file_, env_.new_writable_file(path_ + ".tmp"));
    return {};
  }
  template <typename T>
  Status put(std::span<const T> values) {
    return file_->append(std::as_bytes(values));
  }
  template <typename T>
  Status put_one(T value) {
    return put(std::span<const T>(&value, 1));
  }
  Status close() {
    ENGRAM_RETURN_IF_ERROR(file_->sync());
    return file_->close();
  }
  Status appear() {
    ENGRAM_RETURN_IF_ERROR(env_.rename_file(path_ + ".tmp", path_));
    file_.reset();
    return env_.sync_directory(parent_path(path_));
  }

 private:
  Env& env_;
  const std::string path_;
  std::unique_ptr<WritableFile> file_;
};

Status put_ids(NewFile& file, std::span<const int32_t> ids, bool narrow) {
  if (!narrow) return file.put(ids);
  const std::vector<uint16_t> halves(ids.begin(), ids.end());
  return file.put(std::span<const uint16_t>(halves));
}

// [begin, end) of every document.
std::vector<std::pair<int64_t, int64_t>> ranges_of(const TokenShard& shard) {
  std::vector<std::pair<int64_t, int64_t>> ranges;
  const auto starts = shard.document_starts();
  for (size_t i = 0; i < starts.size(); ++i)
    ranges.emplace_back(starts[i], i + 1 < starts.size() ? starts[i + 1] : shard.info().num_tokens);
  return ranges;
}

Status write_llm(Env& env, const TokenShard& shard, int32_t end_of_text, const std::string& path) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (shard.info().num_tokens > kMost)
    return invalid_argument("{}: got {} tokens, wanted at most {} in one file of llm.c's", shard.path(),
                            shard.info().num_tokens, kMost);
  const bool narrow = shard.info().vocab_size <= 65536;
  NewFile file(env, path);
  ENGRAM_RETURN_IF_ERROR(file.open());
  std::vector<int32_t> header(kLlmHeader);
  header[0] = kLlmKinds[narrow ? 0 : 1].magic;
  header[1] = kLlmKinds[narrow ? 0 : 1].version;
  header[2] = static_cast<int32_t>(shard.info().num_tokens);
  ENGRAM_RETURN_IF_ERROR(file.put(std::span<const int32_t>(header)));
  std::vector<int32_t> ids;
  for (const auto& [begin, end] : ranges_of(shard)) {
    ids.resize(static_cast<size_t>(end - begin));
    shard.copy_tokens(begin, ids);
    if (ids.back() == end_of_text) std::rotate(ids.begin(), ids.end() - 1, ids.end());
    ENGRAM_RETURN_IF_ERROR(put_ids(file, ids, narrow));
  }
  ENGRAM_RETURN_IF_ERROR(shard.readable());
  ENGRAM_RETURN_IF_ERROR(file.close());
  return file.appear();
}

Status write_megatron(Env& env, const TokenShard& shard, const std::string& path) {
  const bool narrow = shard.info().vocab_size < 65500;  // Megatron's own limit
  const auto ranges = ranges_of(shard);
  NewFile bin(env, path + ".bin"), index(env, path + ".idx");
  ENGRAM_RETURN_IF_ERROR(bin.open());
  std::vector<int32_t> ids, lengths;
  std::vector<int64_t> offsets, documents = {0};
  for (const auto& [begin, end] : ranges) {
    if (end - begin > std::numeric_limits<int32_t>::max())
      return invalid_argument("{}: got a document of {} tokens, wanted below 2^31", shard.path(), end - begin);
    ids.resize(static_cast<size_t>(end - begin));
    shard.copy_tokens(begin, ids);
    ENGRAM_RETURN_IF_ERROR(put_ids(bin, ids, narrow));
    lengths.push_back(static_cast<int32_t>(end - begin));
    offsets.push_back(begin * (narrow ? 2 : 4));
    documents.push_back(std::ssize(lengths));
  }
  ENGRAM_RETURN_IF_ERROR(shard.readable());
  ENGRAM_RETURN_IF_ERROR(bin.close());
  ENGRAM_RETURN_IF_ERROR(index.open());
  ENGRAM_RETURN_IF_ERROR(index.put(std::span<const char>(kIndexMagic)));
  ENGRAM_RETURN_IF_ERROR(index.put_one(uint64_t{1}));
  ENGRAM_RETURN_IF_ERROR(index.put_one(uint8_t{narrow ? uint8_t{8} : uint8_t{4}}));
  ENGRAM_RETURN_IF_ERROR(index.put_one(uint64_t{lengths.size()}));
  ENGRAM_RETURN_IF_ERROR(index.put_one(uint64_t{documents.size()}));
  ENGRAM_RETURN_IF_ERROR(index.put(std::span<const int32_t>(lengths)));
  ENGRAM_RETURN_IF_ERROR(index.put(std::span<const int64_t>(offsets)));
  ENGRAM_RETURN_IF_ERROR(index.put(std::span<const int64_t>(documents)));
  ENGRAM_RETURN_IF_ERROR(index.close());
  ENGRAM_RETURN_IF_ERROR(bin.appear());
  return index.appear();  // last: a reader begins with it
}

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

bool is_token_file_name(std::string_view path) { return path.ends_with(".bin") || path.ends_with(".idx"); }

Result<Documents> parse_token_file(std::span<const std::byte> ids, std::optional<std::span<const std::byte>> index,
                                   const std::string& name, int32_t vocab_size, int32_t end_of_text) {
  const Reader reader(name, vocab_size, end_of_text);
  if (!index) return reader.llm(ids);
  if (index->size() < kIndexHeader || !text_of(*index).starts_with(kIndexMagic))
    return invalid_argument("{}: got no index of Megatron's, which begins with \"MMIDIDX\"", name);
  return reader.megatron(*index, ids);
}

Result<Documents> read_token_file(Env& env, const std::string& path, int32_t vocab_size, int32_t end_of_text) {
  const std::string stem = path.substr(0, path.size() - 4), index_path = stem + ".idx", bin_path = stem + ".bin";
  ENGRAM_ASSIGN_OR_RETURN(const auto bin, env.map_file(bin_path));
  if (is_llm(bin->bytes()) && path == bin_path) {
    ENGRAM_ASSIGN_OR_RETURN(Documents documents, parse_token_file(bin->bytes(), {}, path, vocab_size, end_of_text));
    ENGRAM_RETURN_IF_ERROR(bin->readable());
    return documents;
  }
  if (!env.file_exists(index_path))
    return invalid_argument("{}: got neither a token file of llm.c's, nor one of Megatron's, which has {} beside it",
                            path, index_path);
  ENGRAM_ASSIGN_OR_RETURN(const auto index, env.map_file(index_path));
  ENGRAM_ASSIGN_OR_RETURN(Documents documents,
                          parse_token_file(bin->bytes(), index->bytes(), index_path, vocab_size, end_of_text));
  ENGRAM_RETURN_IF_ERROR(index->readable());
  ENGRAM_RETURN_IF_ERROR(bin->readable());
  return documents;
}

Status write_token_file(Env& env, const TokenShard& shard, TokenFileFormat format, int32_t end_of_text,
                        const std::string& path) {
  if (shard.info().masked)
    return invalid_argument("{}: got a shard of which a part is not to be learned, wanted one without a mask",
                            shard.path());
  return format == TokenFileFormat::kLlmC ? write_llm(env, shard, end_of_text, path) : write_megatron(env, shard, path);
}

}  // namespace engram
