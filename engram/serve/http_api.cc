#include "engram/serve/http_api.h"

#include <arpa/inet.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engram/core/json.h"
#include "engram/core/markup.h"
#include "engram/serve/prompt_limit.h"

namespace engram {

namespace assets {
extern const std::string_view serve_page_html;
extern const std::string_view serve_openapi_json;
}  // namespace assets

namespace {

using nlohmann::ordered_json;

struct Route {
  const char* path;
  bool post;  // else GET and HEAD
  bool open;  // needs no key
};
constexpr Route kRoutes[] = {
    {"/", false, true},
    {"/openapi.json", false, true},
    {"/health", false, true},
    {"/v1/models", false, false},
    {"/tokenizer_info", false, false},
    {"/metrics", false, false},
    {"/metrics.json", false, false},
    {"/v1/completions", true, false},
    {"/v1/chat/completions", true, false},
    {"/v1/memory/trace", true, false},
    {"/tokenize", true, false},
    {"/detokenize", true, false},
};
constexpr std::string_view kModelPrefix = "/v1/models/";

const Route* find_route(const std::string& path) {
  const std::string_view name = path.starts_with(kModelPrefix) ? "/v1/models" : std::string_view(path);
  for (const Route& route : kRoutes) {
    if (route.path == name) return &route;
  }
  return nullptr;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

// %2F and the like; what is no escape stays.
std::string percent_decoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const int high = text[i] == '%' && i + 2 < text.size() ? hex_digit(text[i + 1]) : -1;
    const int low = high >= 0 ? hex_digit(text[i + 2]) : -1;
    if (low >= 0) i += 2;
    out += low >= 0 ? static_cast<char>(high * 16 + low) : text[i];
  }
  return out;
}

std::string lower_case(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; });
  return out;
}

bool is_address(int family, const std::string& text) {
  in6_addr bytes{};
  return text.find('\0') == std::string::npos && inet_pton(family, text.c_str(), &bytes) == 1;
}

// A Host header's value as RFC 3986 (section 3.2.2) and RFC 9110 (section 4.2.3) compare it: without its port, the case
// and the escapes of a name mean nothing, nor does the dot that ends a whole one.
// A page of another site can make a browser send requests here under its own name (DNS rebinding); an address or
// localhost cannot be such a name.
bool is_local_name(std::string_view host) {
  const bool literal = host.starts_with('[');
  const size_t end = literal ? host.find(']') : std::min(host.find(':'), host.size());
  if (end == std::string_view::npos) return false;
  const std::string_view port = host.substr(literal ? end + 1 : end);
  if (!port.empty() && (port[0] != ':' || port.find_first_not_of("0123456789", 1) != std::string_view::npos)) {
    return false;
  }
  if (literal) return is_address(AF_INET6, std::string(host.substr(1, end - 1)));
  std::string name = lower_case(percent_decoded(host.substr(0, end)));
  if (name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-._") != std::string::npos) return false;
  if (name.ends_with('.')) name.pop_back();
  return name == "localhost" || name.ends_with(".localhost") || is_address(AF_INET, name);
}

bool is_json(std::string_view content_type) {
  std::string kind = lower_case(content_type.substr(0, content_type.find(';')));
  while (kind.ends_with(' ') || kind.ends_with('\t')) kind.pop_back();
  return kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"));
}

HttpReply json_reply(const ordered_json& value, int status = 200) {
  return {status, "application/json", json_line(value), {}};
}

HttpReply page_reply() {
  static const std::string page =
      fill_page(assets::serve_page_html, {{"/*PAGE_CSS*/", assets::page_css}, {"/*PAGE_JS*/", assets::page_js}});
  HttpReply out{200, "text/html; charset=utf-8", page, {}};
  out.headers = {{"Content-Security-Policy",
                  "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
                  "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"},
                 {"Referrer-Policy", "no-referrer"},
                 {"Cache-Control", "no-cache"}};
  return out;
}

}  // namespace

HttpApi::HttpApi(const Engine& engine, const Tokenizer& tokenizer, std::string chat_template, int max_choices,
                 const std::vector<std::string>& api_keys)
    : engine_(engine),
      model_{engine.info(), tokenizer, Chat(std::move(chat_template)), max_choices,
             most_prompt_bytes(tokenizer, engine.info().max_context)},
      keys_(api_keys) {}

const char* HttpApi::route_name(const std::string& path) {
  const Route* route = find_route(path);
  return route == nullptr ? "other" : route->path;
}

std::optional<HttpReply> HttpApi::refuse(const HttpRequest& head) const {
  if (keys_.empty() && !head.host.empty() && !is_local_name(head.host)) {
    return ApiError{403, fmt::format("Host: got {}, wanted localhost or an address (a server that has keys takes "
                                     "other names)",
                                     quote_text(head.host))}
        .reply();
  }
  const Route* route = find_route(head.path);
  const bool all = head.path == "*" && head.method == "OPTIONS";
  if (route == nullptr && !all) {
    return ApiError{404, fmt::format("no such path: {} (GET /openapi.json lists them)", quote_text(head.path)),
                    "invalid_request_error", "", "not_found"}
        .reply();
  }
  if (head.method == "OPTIONS") return std::nullopt;
  const bool fits = route->post ? head.method == "POST" : head.method == "GET" || head.method == "HEAD";
  if (!fits) {
    const char* allow = route->post ? "POST, OPTIONS" : "GET, HEAD, OPTIONS";
    HttpReply out = ApiError{405, fmt::format("{}: got {}, wanted {}", route->path, quote_text(head.method), allow),
                             "invalid_request_error", "", "method_not_allowed"}
                        .reply();
    out.headers.emplace_back("Allow", allow);
    return out;
  }
  if (!route->open && !keys_.empty() && !keys_.accepts(head.authorization)) {
    return ApiError{401,
                    head.authorization.empty() ? "this server needs a key: send \"Authorization: Bearer KEY\""
                                               : "the key of the Authorization header is not one of this server's",
                    "authentication_error", "", "invalid_api_key"}
        .reply();
  }
  if (route->post && !is_json(head.content_type)) {
    return ApiError{415, fmt::format("Content-Type: got {}, wanted application/json", quote_text(head.content_type))}
        .reply();
  }
  return std::nullopt;
}

HttpReply HttpApi::models(const std::string& path) const {
  const EngineInfo& info = model_.info;
  ordered_json overlays = ordered_json::array();
  for (const OverlayInfo& one : info.overlays)
    overlays.push_back({{"name", one.name}, {"rows", one.rows}, {"bytes", one.bytes}});
  const ordered_json memory = {{"layer_ids", info.layer_ids},           {"streams", info.streams},
                               {"max_ngram_size", info.max_ngram_size}, {"n_heads", info.n_heads},
                               {"placement", info.placement},           {"overlays", overlays}};
  const ordered_json model = {{"id", info.model},
                              {"object", "model"},
                              {"created", info.created},
                              {"owned_by", "engram"},
                              {"max_model_len", info.max_context},
                              {"memory", info.layer_ids.empty() ? ordered_json() : memory}};
  if (!path.starts_with(kModelPrefix)) return json_reply({{"object", "list"}, {"data", ordered_json::array({model})}});
  const std::string name = percent_decoded(std::string_view(path).substr(kModelPrefix.size()));
  return name == info.model ? json_reply(model) : unknown_model(name, info.model).reply();
}

HttpReply HttpApi::get(const std::string& route, const HttpRequest& request, bool draining) const {
  if (route == "/") return page_reply();
  if (route == "/openapi.json") {
    return {200, "application/json", std::string(assets::serve_openapi_json), {{"Cache-Control", "no-cache"}}};
  }
  if (route == "/health") {
    // Degraded is 200: most requests are served, and to stop sending any would make it worse. What failed is for the
    // log and for clients with a key: this path is open to all.
    const char* status = draining ? "draining" : engine_.health().ok() ? "ok" : "degraded";
    return json_reply({{"status", status}, {"key_required", !keys_.empty()}}, draining ? 503 : 200);
  }
  if (route == "/v1/models") return models(request.path);
  if (route == "/tokenizer_info") return tokenizer_info(model_);
  if (route == "/metrics") {
    return {200, "text/plain; version=0.0.4; charset=utf-8", metrics_text(engine_.metrics(), counters_), {}};
  }
  return {200, "application/json", metrics_json(engine_.metrics(), counters_), {{"Cache-Control", "no-store"}}};
}

std::variant<HttpReply, GenerationCall> HttpApi::answer(const HttpRequest& request, bool draining) const {
  const Route* route = find_route(request.path);
  if (request.method == "OPTIONS") {
    const bool post = route == nullptr || route->post;
    const char* allow = route == nullptr ? "GET, HEAD, POST, OPTIONS" : post ? "POST, OPTIONS" : "GET, HEAD, OPTIONS";
    return HttpReply{204, "", "", {{"Allow", allow}}};
  }
  if (!route->post) return get(route->path, request, draining);
  if (draining) return draining_error().reply();
  const std::string path = route->path;
  if (path == "/tokenize") return tokenize(model_, request.body);
  if (path == "/detokenize") return detokenize(model_, request.body);
  const auto parse = path == "/v1/completions"        ? parse_completion
                     : path == "/v1/chat/completions" ? parse_chat_completion
                                                      : parse_memory_trace;
  std::variant<GenerationCall, ApiError> call = parse(model_, request.body);
  if (const ApiError* error = std::get_if<ApiError>(&call)) return error->reply();
  return std::move(std::get<GenerationCall>(call));
}

}  // namespace engram
