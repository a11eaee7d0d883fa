#include "engram/serve/request_reader.h"

#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <optional>
#include <string>

namespace engram {
namespace {

namespace http = boost::beast::http;
using Parser = http::request_parser<http::string_body>;

std::string_view view(boost::beast::string_view text) { return {text.data(), text.size()}; }

ApiError parse_failure(const boost::beast::error_code& code, const HttpLimits& limits) {
  if (code == http::error::header_limit) {
    return {431, fmt::format("request head: more than {} bytes", limits.max_header_bytes)};
  }
  if (code == http::error::body_limit) {
    return {413, fmt::format("request body: more than {} bytes", limits.max_body_bytes), "invalid_request_error", "",
            "body_too_large"};
  }
  if (code == http::error::bad_version) return {505, "HTTP version: wanted 1.0 or 1.1"};
  return bad_request(fmt::format("this is not an HTTP request: {}", code.message()));
}

// The path of "/path?query" and of "http://host/path?query".
std::string path_of(std::string_view target) {
  if (const size_t scheme = target.find("://"); !target.starts_with('/') && scheme != std::string_view::npos) {
    const size_t slash = target.find('/', scheme + 3);
    target = slash == std::string_view::npos ? "/" : target.substr(slash);
  }
  return std::string(target.substr(0, target.find_first_of("?#")));
}

// What Beast lets through and a server must not: no Host, two of them, a body whose end cannot be known.
std::optional<ApiError> head_problem(const Parser& parser) {
  const auto& message = parser.get();
  const auto hosts = message.count(http::field::host);
  if (hosts > 1 || (hosts == 0 && message.version() == 11)) {
    return bad_request(fmt::format("Host: got {} of this header, wanted one", hosts));
  }
  if (message.count(http::field::transfer_encoding) > 0 && !parser.chunked()) {
    return bad_request("Transfer-Encoding: wanted chunked or none");
  }
  return std::nullopt;
}

HttpRequest head_of(const Parser& parser) {
  const auto& message = parser.get();
  HttpRequest out;
  out.method = view(message.method_string());
  out.path = path_of(view(message.target()));
  out.http_1_0 = message.version() == 10;
  out.keep_alive = parser.keep_alive();
  out.expect_continue = boost::beast::iequals(message[http::field::expect], "100-continue");
  out.has_body = !parser.is_done();
  out.host = view(message[http::field::host]);
  out.authorization = view(message[http::field::authorization]);
  out.content_type = view(message[http::field::content_type]);
  return out;
}

}  // namespace

struct RequestReader::Impl {
  explicit Impl(const HttpLimits& http_limits) : limits(http_limits) { begin(); }

  void begin() {
    parser.emplace();
    parser->header_limit(static_cast<uint32_t>(limits.max_header_bytes));
    parser->body_limit(limits.max_body_bytes);
    request = HttpRequest();
    head_told = false;
  }
  // Bytes go to the parser as long as it takes them.
  bool feed();

  HttpLimits limits;
  std::optional<Parser> parser;
  std::string buffer;
  HttpRequest request;
  bool head_told = false;
  std::optional<ApiError> error;
};

bool RequestReader::Impl::feed() {
  while (!buffer.empty() && !parser->is_done()) {
    if (parser->is_header_done() && !head_told) return true;  // the body only after the head was looked at
    boost::beast::error_code code;
    const size_t used = parser->put(boost::asio::buffer(buffer), code);
    buffer.erase(0, used);
    if (code && code != http::error::need_more) {
      error = parse_failure(code, limits);
      return false;
    }
    if (used == 0) break;
  }
  return true;
}

RequestReader::RequestReader(const HttpLimits& limits) : impl_(std::make_unique<Impl>(limits)) {}
RequestReader::~RequestReader() = default;

void RequestReader::append(std::string_view bytes) { impl_->buffer += bytes; }

RequestReader::State RequestReader::advance() {
  Impl& self = *impl_;
  if (self.error) return State::kBad;
  if (!self.parser->got_some()) {  // empty lines before a request are allowed
    self.buffer.erase(0, std::min(self.buffer.find_first_not_of("\r\n"), self.buffer.size()));
  }
  if (!self.feed()) return State::kBad;
  if (!self.parser->is_header_done()) return State::kNeedMore;
  if (!self.head_told) {
    self.error = head_problem(*self.parser);
    if (self.error) return State::kBad;
    self.request = head_of(*self.parser);
    self.head_told = true;
    self.parser->eager(true);
    return State::kHead;
  }
  return self.parser->is_done() ? State::kWhole : State::kNeedMore;
}

const HttpRequest& RequestReader::request() const { return impl_->request; }

HttpRequest RequestReader::take() {
  HttpRequest out = std::move(impl_->request);
  out.body = std::move(impl_->parser->get().body());
  impl_->begin();
  return out;
}

const ApiError& RequestReader::error() const { return *impl_->error; }
size_t RequestReader::buffered() const { return impl_->buffer.size(); }
bool RequestReader::idle() const { return impl_->buffer.empty() && !impl_->parser->got_some(); }

}  // namespace engram
