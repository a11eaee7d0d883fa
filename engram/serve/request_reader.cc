#include "engram/serve/request_reader.h"

#include <algorithm>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <optional>
#include <stdexcept>
#include <string>

#include "engram/serve/chunked_body.h"

namespace engram {
namespace {

namespace http = boost::beast::http;
using Parser = http::request_parser<http::empty_body>;  // of heads; bodies are read here

std::string_view view(boost::beast::string_view text) { return {text.data(), text.size()}; }

ApiError head_too_large(const HttpLimits& limits) {
  return {431, fmt::format("request head: more than {} bytes (the trailer and the extensions of chunks count too)",
                           limits.max_header_bytes)};
}

ApiError body_too_large(const HttpLimits& limits) {
  return {413, fmt::format("request body: more than {} bytes", limits.max_body_bytes), "invalid_request_error", "",
          "body_too_large"};
}

ApiError not_http(std::string_view why) { return bad_request(fmt::format("this is not an HTTP request: {}", why)); }

ApiError parse_failure(const boost::beast::error_code& code, const HttpLimits& limits) {
  if (code == http::error::header_limit) return head_too_large(limits);
  if (code == http::error::bad_version) return {505, "HTTP version: wanted 1.0 or 1.1"};
  return not_http(code.message());
}

struct Target {
  std::string host;  // of "http://host/path": it goes before the Host header (RFC 9112, section 3.2.2)
  std::string path;  // without query
};

Target split_target(std::string_view target) {
  Target out;
  if (const size_t scheme = target.find("://"); !target.starts_with('/') && scheme != std::string_view::npos) {
    const size_t begin = scheme + 3;
    const size_t end = std::min(target.find_first_of("/?#", begin), target.size());
    out.host = target.substr(begin, end - begin);
    target.remove_prefix(end);
    if (!target.starts_with('/')) target = "/";
  }
  out.path = target.substr(0, target.find_first_of("?#"));
  return out;
}

// The one transfer coding that is taken is "chunked", alone; where a body with another ends cannot be known.
std::optional<ApiError> transfer_coding_problem(const Parser& parser) {
  const auto& message = parser.get();
  const auto [begin, end] = message.equal_range(http::field::transfer_encoding);
  if (begin == end) return std::nullopt;
  int chunked = 0;
  for (auto field = begin; field != end; ++field) {
    std::string_view rest = view(field->value());
    while (true) {
      const size_t comma = std::min(rest.find(','), rest.size());
      std::string_view coding = rest.substr(0, comma);
      while (!coding.empty() && (coding.front() == ' ' || coding.front() == '\t')) coding.remove_prefix(1);
      while (!coding.empty() && (coding.back() == ' ' || coding.back() == '\t')) coding.remove_suffix(1);
      if (boost::beast::iequals({coding.data(), coding.size()}, "chunked")) {
        ++chunked;
      } else if (!coding.empty()) {
        return ApiError{501, "Transfer-Encoding: only chunked is served"};
      }
      if (comma == rest.size()) break;
      rest.remove_prefix(comma + 1);
    }
  }
  if (chunked == 1 && parser.chunked() && message.version() == 11) return std::nullopt;
  return bad_request("Transfer-Encoding: wanted chunked, once and of HTTP/1.1, or none");
}

// What Beast lets through and a server must not: no Host, two of them, a body whose end cannot be known.
std::optional<ApiError> head_problem(const Parser& parser, const HttpLimits& limits) {
  const auto& message = parser.get();
  const auto hosts = message.count(http::field::host);
  if (hosts > 1 || (hosts == 0 && message.version() == 11)) {
    return bad_request(fmt::format("Host: got {} of this header, wanted one", hosts));
  }
  if (auto problem = transfer_coding_problem(parser)) return problem;
  if (const auto length = parser.content_length(); length && *length > limits.max_body_bytes) {
    return body_too_large(limits);
  }
  return std::nullopt;
}

// Goes into headers and lines of a log as it is.
bool is_request_id(std::string_view text) {
  constexpr size_t kLongest = 128;
  return !text.empty() && text.size() <= kLongest && std::all_of(text.begin(), text.end(), [](char c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    return letter || c == '-' || c == '_' || c == '.' || c == ':';
  });
}

HttpRequest head_of(const Parser& parser) {
  const auto& message = parser.get();
  Target target = split_target(view(message.target()));
  HttpRequest out;
  out.method = view(message.method_string());
  out.path = std::move(target.path);
  out.http_1_0 = message.version() == 10;
  out.keep_alive = parser.keep_alive();
  out.expect_continue = boost::beast::iequals(message[http::field::expect], "100-continue");
  out.has_body = !parser.is_done();
  out.host = target.host.empty() ? std::string(view(message[http::field::host])) : std::move(target.host);
  out.authorization = view(message[http::field::authorization]);
  out.content_type = view(message[http::field::content_type]);
  if (const auto id = view(message["X-Request-Id"]); is_request_id(id)) out.request_id = id;
  return out;
}

}  // namespace

struct RequestReader::Impl {
  explicit Impl(const HttpLimits& http_limits) : limits(http_limits) { begin(); }

  void begin() {
    parser.emplace();
    parser->header_limit(static_cast<uint32_t>(std::min<size_t>(limits.max_header_bytes, UINT32_MAX)));
    parser->body_limit(UINT64_MAX);  // looked at here
    head_bytes = body_left = 0;
    chunks.reset();
    request = HttpRequest();
    head_told = false;
  }
  // Each goes on as far as the bytes reach.
  State read_head();
  State read_body();
  State fail(ApiError why) {
    error = std::move(why);
    return State::kBad;
  }

  HttpLimits limits;
  std::optional<Parser> parser;
  std::string buffer;
  size_t head_bytes = 0;  // that the parser has taken, and empty lines before them
  uint64_t body_left = 0;
  std::optional<ChunkedBody> chunks;
  HttpRequest request;
  bool head_told = false;
  std::optional<ApiError> error;
};

RequestReader::State RequestReader::Impl::read_head() {
  if (!parser->got_some()) {  // empty lines before a request are allowed
    const size_t empty = std::min(buffer.find_first_not_of("\r\n"), buffer.size());
    buffer.erase(0, empty);
    head_bytes += empty;
  }
  while (!buffer.empty() && !parser->is_header_done()) {
    boost::beast::error_code code;
    const size_t used = parser->put(boost::asio::buffer(buffer), code);
    buffer.erase(0, used);
    head_bytes += used;
    if (code && code != http::error::need_more) return fail(parse_failure(code, limits));
    if (used == 0) break;
  }
  // The parser's own limit is one for a single field.
  const size_t open = parser->is_header_done() ? 0 : buffer.size();
  if (head_bytes + open > limits.max_header_bytes) return fail(head_too_large(limits));
  if (!parser->is_header_done()) return State::kNeedMore;
  if (auto problem = head_problem(*parser, limits)) return fail(std::move(*problem));
  request = head_of(*parser);
  head_told = true;
  if (parser->chunked()) {
    chunks.emplace(limits.max_header_bytes - head_bytes, limits.max_body_bytes);
  } else {
    body_left = parser->content_length().value_or(0);
  }
  return State::kHead;
}

RequestReader::State RequestReader::Impl::read_body() {
  if (!chunks) {
    const size_t count = std::min<uint64_t>(body_left, buffer.size());
    request.body.append(buffer, 0, count);
    buffer.erase(0, count);
    body_left -= count;
    return body_left == 0 ? State::kWhole : State::kNeedMore;
  }
  std::string_view rest = buffer;
  const ChunkedBody::State state = chunks->feed(rest, request.body);
  buffer.erase(0, buffer.size() - rest.size());
  switch (state) {
    case ChunkedBody::State::kNeedMore: return State::kNeedMore;
    case ChunkedBody::State::kDone: return State::kWhole;
    case ChunkedBody::State::kTooMuchElse: return fail(head_too_large(limits));
    case ChunkedBody::State::kTooMuchBody: return fail(body_too_large(limits));
    case ChunkedBody::State::kBad: break;
  }
  return fail(not_http(chunks->problem()));
}

RequestReader::RequestReader(const HttpLimits& limits) : impl_(std::make_unique<Impl>(limits)) {}
RequestReader::~RequestReader() = default;

void RequestReader::append(std::string_view bytes) { impl_->buffer += bytes; }

RequestReader::State RequestReader::advance() {
  if (impl_->error) return State::kBad;
  try {
    return impl_->head_told ? impl_->read_body() : impl_->read_head();
  } catch (const std::length_error& problem) {  // how Beast reports a field that is too long for it
    return impl_->fail(not_http(problem.what()));
  }
}

const HttpRequest& RequestReader::request() const { return impl_->request; }

HttpRequest RequestReader::take() {
  HttpRequest out = std::move(impl_->request);
  impl_->begin();
  return out;
}

const ApiError& RequestReader::error() const { return *impl_->error; }
size_t RequestReader::buffered() const { return impl_->buffer.size(); }
bool RequestReader::idle() const { return impl_->buffer.empty() && !impl_->parser->got_some(); }

}  // namespace engram
