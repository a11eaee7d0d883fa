#include "engram/data/token_shard.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "engram/core/crc32c.h"
#include "engram/core/file_kind.h"

namespace engram {
namespace {

static_assert(std::endian::native == std::endian::little, "shards are little-endian and read in place");

constexpr size_t kPage = 4096;
constexpr char kHeaderMagic[8] = {'E', 'N', 'G', 'R', 'T', 'O', 'K', 'S'};
constexpr char kFooterMagic[8] = {'E', 'N', 'G', 'R', 'T', 'O', 'K', 'E'};
constexpr uint32_t kVersion = 1, kMaskedVersion = 2;
constexpr size_t kDigestBytes = 32;

// First page: what is known before the first token.
struct Header {
  char magic[8];
  uint32_t version;
  uint32_t token_bytes;  // 2 or 4
  uint32_t vocab_size;
  uint32_t reserved;  // 0
  uint8_t digest[kDigestBytes];
  uint8_t zeros[kPage - 60];
  uint32_t crc;  // of the page's other bytes
};
static_assert(sizeof(Header) == kPage);

// Last page: what is known after the last one.
struct Footer {
  char magic[8];
  uint64_t num_tokens;
  uint64_t num_documents;
  uint64_t raw_bytes;
  uint64_t starts_offset;  // the tokens' is always one page
  uint32_t tokens_crc;     // of the section, its padding included
  uint32_t starts_crc;
  // Of version 2 alone; zeros in version 1.
  uint32_t counted_crc;
  uint32_t reserved;  // 0
  uint64_t counted_tokens;
  uint64_t counted_bytes;
  uint8_t zeros[kPage - 76];
  uint32_t crc;
};
static_assert(sizeof(Footer) == kPage);

template <typename PageStruct>
uint32_t page_crc(const PageStruct& page) {
  return crc32c(std::as_bytes(std::span(&page, 1)).first(kPage - sizeof(uint32_t)));
}

uint64_t round_up_to_page(uint64_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

uint64_t mask_bytes(uint64_t num_tokens) { return (num_tokens + 7) / 8; }

bool bit_of(const std::byte* bits, int64_t at) { return (std::to_integer<int>(bits[at / 8]) >> (at % 8) & 1) != 0; }

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

// False when `hex` is not 64 lower-case hex digits.
bool parse_digest(const std::string& hex, uint8_t (&digest)[kDigestBytes]) {
  if (hex.size() != 2 * kDigestBytes) return false;
  for (size_t i = 0; i < kDigestBytes; ++i) {
    const int high = hex_digit(hex[2 * i]), low = hex_digit(hex[2 * i + 1]);
    if (high < 0 || low < 0) return false;
    digest[i] = static_cast<uint8_t>(high * 16 + low);
  }
  return true;
}

std::string format_digest(const uint8_t (&digest)[kDigestBytes]) {
  std::string hex;
  for (uint8_t byte : digest) hex += fmt::format("{:02x}", byte);
  return hex;
}

Status check_header(const std::string& path, const Header& header) {
  if (std::memcmp(header.magic, kHeaderMagic, sizeof kHeaderMagic) != 0)
    return data_loss("{}: not a token shard (it does not start with \"ENGRTOKS\"); `engram data prepare` makes them",
                     path);
  if (header.version != kVersion && header.version != kMaskedVersion)
    return data_loss("{}: token shard version is {}, wanted {} or {}", path, header.version, kVersion, kMaskedVersion);
  if (const uint32_t crc = page_crc(header); crc != header.crc)
    return data_loss("{}: token shard header is damaged: CRC32C is {:08x}, wanted {:08x}", path, crc, header.crc);
  if (header.token_bytes != 2 && header.token_bytes != 4)
    return data_loss("{}: token_bytes is {}, wanted 2 or 4", path, header.token_bytes);
  const uint32_t limit = header.token_bytes == 2 ? 65536u : uint32_t{std::numeric_limits<int32_t>::max()};
  if (header.vocab_size == 0 || header.vocab_size > limit)
    return data_loss("{}: vocab_size is {}, wanted 1 to {}", path, header.vocab_size, limit);
  return {};
}

// Every count against the file's size, so that all sections are known to lie inside it.
Status check_footer(const std::string& path, const Footer& footer, uint64_t file_bytes, const Header& header) {
  const uint64_t token_bytes = header.token_bytes;
  if (std::memcmp(footer.magic, kFooterMagic, sizeof kFooterMagic) != 0)
    return data_loss("{}: token shard is truncated: no footer in the last page of {} bytes", path, file_bytes);
  if (const uint32_t crc = page_crc(footer); crc != footer.crc)
    return data_loss("{}: token shard footer is damaged: CRC32C is {:08x}, wanted {:08x}", path, crc, footer.crc);
  if (footer.num_tokens > file_bytes / token_bytes || footer.num_documents > file_bytes / sizeof(int64_t))
    return data_loss("{}: {} tokens and {} documents do not fit a file of {} bytes", path, footer.num_tokens,
                     footer.num_documents, file_bytes);
  if (footer.raw_bytes > uint64_t{std::numeric_limits<int64_t>::max()})
    return data_loss("{}: raw_bytes is {}, wanted below 2^63", path, footer.raw_bytes);
  const uint64_t starts_offset = kPage + round_up_to_page(footer.num_tokens * token_bytes);
  if (footer.starts_offset != starts_offset)
    return data_loss("{}: starts_offset is {}, wanted {} for {} tokens", path, footer.starts_offset, starts_offset,
                     footer.num_tokens);
  uint64_t wanted = starts_offset + round_up_to_page(footer.num_documents * sizeof(int64_t)) + kPage;
  if (header.version == kMaskedVersion) {
    wanted += round_up_to_page(mask_bytes(footer.num_tokens));
    if (footer.counted_tokens > footer.num_tokens || footer.counted_bytes > footer.raw_bytes)
      return data_loss("{}: counted_tokens is {}, wanted at most {}; counted_bytes is {}, wanted at most {}", path,
                       footer.counted_tokens, footer.num_tokens, footer.counted_bytes, footer.raw_bytes);
  }
  if (wanted != file_bytes)
    return data_loss("{}: file has {} bytes, wanted {} for {} tokens and {} documents{}", path, file_bytes, wanted,
                     footer.num_tokens, footer.num_documents, header.version == kMaskedVersion ? " with a mask" : "");
  return {};
}

Status check_section(const std::string& path, const char* name, std::span<const std::byte> bytes, uint32_t wanted) {
  if (const uint32_t crc = crc32c(bytes); crc != wanted)
    return data_loss("{}: {} section is damaged: CRC32C is {:08x}, wanted {:08x}", path, name, crc, wanted);
  return {};
}

template <typename Token>
Status check_ids(const std::string& path, const std::byte* tokens, uint64_t count, uint32_t vocab_size) {
  const auto* ids = reinterpret_cast<const Token*>(tokens);  // page-aligned
  const Token* end = ids + count;
  const Token* bad = std::find_if(ids, end, [=](Token id) { return uint32_t{id} >= vocab_size; });
  if (bad != end)
    return data_loss("{}: token {} has id {}, wanted below vocab_size {}", path, bad - ids, *bad, vocab_size);
  return {};
}

Status check_starts(const std::string& path, std::span<const int64_t> starts, int64_t num_tokens) {
  if (starts.empty() != (num_tokens == 0))
    return data_loss("{}: {} documents for {} tokens", path, starts.size(), num_tokens);
  for (size_t i = 0; i < starts.size(); ++i) {
    const int64_t low = i == 0 ? 0 : starts[i - 1] + 1, high = i == 0 ? 1 : num_tokens;
    if (starts[i] < low || starts[i] >= high)
      return data_loss("{}: document {} starts at token {}, wanted {} to {}", path, i, starts[i], low, high - 1);
  }
  return {};
}

// Every bit belongs to a token, and so many of them are set.
Status check_mask(const std::string& path, const std::byte* bits, int64_t num_tokens, int64_t counted_tokens) {
  int64_t counted = 0;
  for (int64_t at = 0; at < static_cast<int64_t>(mask_bytes(static_cast<uint64_t>(num_tokens))); ++at)
    counted += std::popcount(std::to_integer<uint8_t>(bits[at]));
  for (int64_t at = num_tokens; at % 8 != 0; ++at)
    if (bit_of(bits, at)) return data_loss("{}: the mask has a bit for token {} of {}", path, at, num_tokens);
  if (counted == counted_tokens) return {};
  return data_loss("{}: the mask counts {} tokens, wanted counted_tokens {}", path, counted, counted_tokens);
}

}  // namespace

Result<TokenShard> TokenShard::open(Env& env, const std::string& path) {
  TokenShard shard;
  shard.path_ = path;
  ENGRAM_ASSIGN_OR_RETURN(shard.file_, env.map_file(path));
  const std::span<const std::byte> bytes = shard.file_->bytes();
  if (bytes.size() < sizeof kHeaderMagic || std::memcmp(bytes.data(), kHeaderMagic, sizeof kHeaderMagic) != 0)
    ENGRAM_RETURN_IF_ERROR(check_not_foreign(bytes.first(std::min<size_t>(bytes.size(), kPage)), path));
  if (bytes.size() < 2 * kPage || bytes.size() % kPage != 0)
    return data_loss("{}: not a token shard, or a truncated one: {} bytes, wanted a multiple of {}, at least {}", path,
                     bytes.size(), kPage, 2 * kPage);
  Header header;
  std::memcpy(&header, bytes.data(), kPage);
  ENGRAM_RETURN_IF_ERROR(check_header(path, header));
  Footer footer;
  std::memcpy(&footer, bytes.data() + bytes.size() - kPage, kPage);
  ENGRAM_RETURN_IF_ERROR(check_footer(path, footer, bytes.size(), header));

  const auto token_section = bytes.subspan(kPage, footer.starts_offset - kPage);
  const auto start_section =
      bytes.subspan(footer.starts_offset, round_up_to_page(footer.num_documents * sizeof(int64_t)));
  const size_t mask_offset = footer.starts_offset + start_section.size();
  const auto mask_section = bytes.subspan(mask_offset, bytes.size() - kPage - mask_offset);
  ENGRAM_RETURN_IF_ERROR(check_section(path, "token", token_section, footer.tokens_crc));
  ENGRAM_RETURN_IF_ERROR(check_section(path, "document start", start_section, footer.starts_crc));
  const bool masked = header.version == kMaskedVersion;
  if (masked) ENGRAM_RETURN_IF_ERROR(check_section(path, "mask", mask_section, footer.counted_crc));

  shard.info_ = {static_cast<int64_t>(footer.num_tokens),
                 static_cast<int64_t>(footer.num_documents),
                 static_cast<int64_t>(footer.raw_bytes),
                 static_cast<int32_t>(header.vocab_size),
                 format_digest(header.digest),
                 masked,
                 static_cast<int64_t>(masked ? footer.counted_tokens : footer.num_tokens),
                 static_cast<int64_t>(masked ? footer.counted_bytes : footer.raw_bytes)};
  shard.tokens_ = token_section.data();
  shard.token_bytes_ = static_cast<int>(header.token_bytes);
  shard.starts_ = {reinterpret_cast<const int64_t*>(start_section.data()), static_cast<size_t>(footer.num_documents)};
  ENGRAM_RETURN_IF_ERROR(check_starts(path, shard.starts_, shard.info_.num_tokens));
  ENGRAM_RETURN_IF_ERROR(header.token_bytes == 2
                             ? check_ids<uint16_t>(path, shard.tokens_, footer.num_tokens, header.vocab_size)
                             : check_ids<uint32_t>(path, shard.tokens_, footer.num_tokens, header.vocab_size));
  if (masked) {
    shard.counted_ = mask_section.data();
    ENGRAM_RETURN_IF_ERROR(check_mask(path, shard.counted_, shard.info_.num_tokens, shard.info_.counted_tokens));
  }
  return shard;
}

void TokenShard::copy_tokens(int64_t begin, std::span<int32_t> out) const {
  const auto count = static_cast<int64_t>(out.size());
  ENGRAM_CHECK(begin >= 0 && count <= info_.num_tokens && begin <= info_.num_tokens - count,
               "begin={} count={} num_tokens={}", begin, count, info_.num_tokens);
  if (token_bytes_ == 2) {
    const auto* ids = reinterpret_cast<const uint16_t*>(tokens_) + begin;
    std::copy(ids, ids + count, out.begin());
  } else {
    const auto* ids = reinterpret_cast<const uint32_t*>(tokens_) + begin;
    std::copy(ids, ids + count, out.begin());
  }
}

void TokenShard::copy_targets(int64_t begin, std::span<int32_t> out) const {
  copy_tokens(begin, out);
  if (counted_ == nullptr) return;
  for (size_t i = 0; i < out.size(); ++i)
    if (!bit_of(counted_, begin + static_cast<int64_t>(i))) out[i] = -1;
}

TokenText read_shards(std::span<const TokenShard> shards) {
  TokenText text;
  for (const TokenShard& shard : shards) {
    const size_t begin = text.token_ids.size(), end = begin + static_cast<size_t>(shard.info().num_tokens);
    text.token_ids.resize(end);
    text.targets.resize(end);
    shard.copy_tokens(0, std::span(text.token_ids).subspan(begin));
    shard.copy_targets(0, std::span(text.targets).subspan(begin));
    for (const int64_t start : shard.document_starts())
      text.document_starts.push_back(static_cast<int64_t>(begin) + start);
    text.bytes += shard.info().counted_bytes;
  }
  return text;
}

struct TokenShardWriter::Impl {
  Env& env;
  std::string path, temporary_path;
  std::unique_ptr<WritableFile> file;
  uint32_t token_bytes = 2;
  TokenShardInfo info;
  std::vector<std::byte> buffer;  // bytes not yet in the file
  uint32_t crc = 0;               // of the current section so far
  uint64_t section_bytes = 0;
  std::vector<int64_t> starts;
  std::vector<uint8_t> mask;  // a bit for each token, where the shard has a mask

  Status flush() {
    if (buffer.empty()) return {};
    ENGRAM_RETURN_IF_ERROR(file->append(buffer));
    buffer.clear();
    return {};
  }
  Status append(std::span<const std::byte> bytes) {
    constexpr size_t kBufferBytes = size_t{1} << 20;
    crc = extend_crc32c(crc, bytes);
    section_bytes += bytes.size();
    buffer.insert(buffer.end(), bytes.begin(), bytes.end());
    return buffer.size() < kBufferBytes ? Status() : flush();
  }
  // Pads the section to whole pages and returns its checksum.
  Result<uint32_t> end_section() {
    const std::vector<std::byte> padding(round_up_to_page(section_bytes) - section_bytes);
    ENGRAM_RETURN_IF_ERROR(append(padding));
    section_bytes = 0;
    return std::exchange(crc, 0u);
  }
};

TokenShardWriter::TokenShardWriter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

TokenShardWriter::~TokenShardWriter() {
  if (!impl_->file) return;
  impl_->file.reset();
  (void)impl_->env.remove_file(impl_->temporary_path);
}

Result<std::unique_ptr<TokenShardWriter>> TokenShardWriter::create(Env& env, const std::string& path,
                                                                   int32_t vocab_size,
                                                                   const std::string& vocabulary_digest, bool masked) {
  if (vocab_size <= 0) return invalid_argument("{}: vocab_size is {}, wanted at least 1", path, vocab_size);
  Header header{};
  if (!parse_digest(vocabulary_digest, header.digest))
    return invalid_argument("{}: vocabulary digest is \"{}\", wanted 64 lower-case hex digits", path,
                            vocabulary_digest);
  auto impl = std::make_unique<Impl>(Impl{env, path, path + ".tmp"});
  impl->token_bytes = vocab_size <= 65536 ? 2 : 4;
  impl->info.vocab_size = vocab_size;
  impl->info.vocabulary_digest = vocabulary_digest;
  impl->info.masked = masked;
  ENGRAM_ASSIGN_OR_RETURN(impl->file, env.new_writable_file(impl->temporary_path));
  std::unique_ptr<TokenShardWriter> writer(new TokenShardWriter(std::move(impl)));

  std::memcpy(header.magic, kHeaderMagic, sizeof kHeaderMagic);
  header.version = masked ? kMaskedVersion : kVersion;
  header.token_bytes = writer->impl_->token_bytes;
  header.vocab_size = static_cast<uint32_t>(vocab_size);
  header.crc = page_crc(header);
  ENGRAM_RETURN_IF_ERROR(writer->impl_->file->append(std::as_bytes(std::span(&header, 1))));
  return writer;
}

Status TokenShardWriter::append_document(std::span<const int32_t> token_ids, int64_t raw_bytes, int64_t first_counted,
                                         int64_t counted_bytes) {
  Impl& impl = *impl_;
  ENGRAM_CHECK(impl.file != nullptr, "{}: append_document after finish", impl.path);
  if (token_ids.empty()) return invalid_argument("{}: a document without tokens", impl.path);
  if (raw_bytes < 0) return invalid_argument("{}: raw_bytes is {}, wanted at least 0", impl.path, raw_bytes);
  const auto count = static_cast<int64_t>(token_ids.size());
  ENGRAM_CHECK(first_counted >= 0 && first_counted <= count && counted_bytes >= 0 && counted_bytes <= raw_bytes &&
                   (impl.info.masked || first_counted == 0),
               "{}: first_counted={} of {} counted_bytes={} of {}", impl.path, first_counted, count, counted_bytes,
               raw_bytes);
  for (int32_t id : token_ids) {
    if (id < 0 || id >= impl.info.vocab_size)
      return invalid_argument("{}: token id is {}, wanted 0 to {}", impl.path, id, impl.info.vocab_size - 1);
  }
  if (impl.token_bytes == 2) {
    const std::vector<uint16_t> narrow(token_ids.begin(), token_ids.end());
    ENGRAM_RETURN_IF_ERROR(impl.append(std::as_bytes(std::span(narrow))));
  } else {
    ENGRAM_RETURN_IF_ERROR(impl.append(std::as_bytes(token_ids)));
  }
  impl.starts.push_back(impl.info.num_tokens);
  if (impl.info.masked) {
    impl.mask.resize(mask_bytes(static_cast<uint64_t>(impl.info.num_tokens + count)));
    for (int64_t at = impl.info.num_tokens + first_counted; at < impl.info.num_tokens + count; ++at)
      impl.mask[static_cast<size_t>(at / 8)] |= static_cast<uint8_t>(1 << at % 8);
  }
  impl.info.num_tokens += count;
  impl.info.num_documents += 1;
  impl.info.raw_bytes += raw_bytes;
  impl.info.counted_tokens += count - first_counted;
  impl.info.counted_bytes += counted_bytes;
  return {};
}

Result<TokenShardInfo> TokenShardWriter::finish() {
  Impl& impl = *impl_;
  ENGRAM_CHECK(impl.file != nullptr, "{}: finish called twice", impl.path);
  Footer footer{};
  std::memcpy(footer.magic, kFooterMagic, sizeof kFooterMagic);
  footer.num_tokens = static_cast<uint64_t>(impl.info.num_tokens);
  footer.num_documents = static_cast<uint64_t>(impl.info.num_documents);
  footer.raw_bytes = static_cast<uint64_t>(impl.info.raw_bytes);
  footer.starts_offset = kPage + round_up_to_page(footer.num_tokens * impl.token_bytes);
  ENGRAM_ASSIGN_OR_RETURN(footer.tokens_crc, impl.end_section());
  ENGRAM_RETURN_IF_ERROR(impl.append(std::as_bytes(std::span(impl.starts))));
  ENGRAM_ASSIGN_OR_RETURN(footer.starts_crc, impl.end_section());
  if (impl.info.masked) {
    footer.counted_tokens = static_cast<uint64_t>(impl.info.counted_tokens);
    footer.counted_bytes = static_cast<uint64_t>(impl.info.counted_bytes);
    ENGRAM_RETURN_IF_ERROR(impl.append(std::as_bytes(std::span(impl.mask))));
    ENGRAM_ASSIGN_OR_RETURN(footer.counted_crc, impl.end_section());
  }
  footer.crc = page_crc(footer);
  ENGRAM_RETURN_IF_ERROR(impl.append(std::as_bytes(std::span(&footer, 1))));
  ENGRAM_RETURN_IF_ERROR(impl.flush());
  ENGRAM_RETURN_IF_ERROR(impl.file->sync());
  ENGRAM_RETURN_IF_ERROR(impl.file->close());
  ENGRAM_RETURN_IF_ERROR(impl.env.rename_file(impl.temporary_path, impl.path));
  impl.file.reset();
  ENGRAM_RETURN_IF_ERROR(impl.env.sync_directory(parent_path(impl.path)));
  return impl.info;
}

}  // namespace engram
