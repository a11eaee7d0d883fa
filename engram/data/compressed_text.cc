#include "engram/data/compressed_text.h"

#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <memory>

namespace engram {
namespace {

constexpr size_t kChunk = size_t{1} << 20;

// Where the text grows, piece by piece, to a limit.
class Output {
 public:
  Output(const std::string& name, size_t most_bytes) : name_(name), most_(most_bytes) {}
  // Space for the next piece; at least a byte.
  Result<std::span<char>> space() {
    if (used_ >= most_)
      return make_status(StatusCode::kResourceExhausted,
                         "{}: got more than {} bytes of text, which do not fit the memory", name_, most_);
    text_.resize(std::min(most_, used_ + kChunk));
    return std::span(text_).subspan(used_);
  }
  void take(size_t bytes) { used_ += bytes; }
  std::string text() {
    text_.resize(used_);
    return std::move(text_);
  }

 private:
  const std::string& name_;
  const size_t most_;
  std::string text_;
  size_t used_ = 0;
};

Status damaged(const std::string& name, size_t at, const char* why) {
  return data_loss("{}: cannot be unpacked behind byte {}: {}", name, at, why);
}

Status unpack_gzip(std::span<const std::byte> bytes, const std::string& name, Output& out) {
  z_stream stream{};
  if (inflateInit2(&stream, 15 + 16) != Z_OK)
    return make_status(StatusCode::kResourceExhausted, "{}: no memory to unpack it", name);
  const std::unique_ptr<z_stream, int (*)(z_stream*)> close(&stream, inflateEnd);
  size_t at = 0;
  for (bool ended = false;;) {
    const size_t left = bytes.size() - at;
    if (ended && left == 0) return {};
    if (ended && inflateReset(&stream) != Z_OK) return damaged(name, at, "no next member");
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(bytes.data() + at));
    stream.avail_in = static_cast<uInt>(std::min<size_t>(left, 1u << 30));
    const uInt given = stream.avail_in;
    ENGRAM_ASSIGN_OR_RETURN(const std::span<char> space, out.space());
    stream.next_out = reinterpret_cast<Bytef*>(space.data());
    stream.avail_out = static_cast<uInt>(space.size());
    const int code = inflate(&stream, Z_NO_FLUSH);
    at += given - stream.avail_in;
    out.take(space.size() - stream.avail_out);
    if (code != Z_OK && code != Z_STREAM_END)
      return damaged(name, at,
                     code == Z_BUF_ERROR || left == 0 ? "the file ends"
                     : stream.msg                     ? stream.msg
                                                      : "bad data");
    ended = code == Z_STREAM_END;
  }
}

Status unpack_zstd(std::span<const std::byte> bytes, const std::string& name, Output& out) {
  const std::unique_ptr<ZSTD_DCtx, size_t (*)(ZSTD_DCtx*)> context(ZSTD_createDCtx(), ZSTD_freeDCtx);
  if (!context) return make_status(StatusCode::kResourceExhausted, "{}: no memory to unpack it", name);
  ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
  for (size_t wanted = 1;;) {  // wanted: 0 where a frame has ended and all of its text is out
    if (wanted == 0 && in.pos == in.size) return {};
    ENGRAM_ASSIGN_OR_RETURN(const std::span<char> space, out.space());
    ZSTD_outBuffer to{space.data(), space.size(), 0};
    const size_t before = in.pos;
    wanted = ZSTD_decompressStream(context.get(), &to, &in);
    if (ZSTD_isError(wanted) != 0) return damaged(name, in.pos, ZSTD_getErrorName(wanted));
    out.take(to.pos);
    if (wanted != 0 && to.pos == 0 && in.pos == before) return damaged(name, in.pos, "the file ends");
  }
}

bool is_gzip_name(std::string_view path) { return path.ends_with(".gz"); }

}  // namespace

bool is_compressed_name(std::string_view path) { return is_gzip_name(path) || path.ends_with(".zst"); }

std::string_view without_compression_ending(std::string_view path) {
  return is_compressed_name(path) ? path.substr(0, path.rfind('.')) : path;
}

Result<std::string> decompress(std::span<const std::byte> bytes, const std::string& name, size_t most_bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const bool gzip = is_gzip_name(name);
  if (!text.starts_with(gzip ? std::string_view("\x1F\x8B") : std::string_view("\x28\xB5\x2F\xFD")))
    return invalid_argument("{}: got other bytes, wanted a file made by {}", name, gzip ? "gzip" : "zstd");
  Output out(name, most_bytes);
  ENGRAM_RETURN_IF_ERROR(gzip ? unpack_gzip(bytes, name, out) : unpack_zstd(bytes, name, out));
  return out.text();
}

}  // namespace engram
