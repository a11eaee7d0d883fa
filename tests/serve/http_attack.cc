// http_attack SERVE_FAKE [CASES [FIRST]]: speaks HTTP to a whole server over sockets, mostly badly: heads, trailers,
// extensions, chunks, pipelining, half-closes, resets, bodies that are nearly right, connections that stay open and say
// nothing.
//
// Case i does the same in every run, and a failure prints i. The server is another process: it must answer with
// statuses that it knows, end every connection whose client has ended its side, keep its memory and descriptors
// bounded, take new requests all the time, and end with exit code 0. ENGRAM_ATTACK_SECONDS: goes on for so long,
// instead of CASES cases.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "tests/serve/http_client.h"

namespace engram {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

#ifdef __SANITIZE_ADDRESS__
constexpr int64_t kMostMib = 1200;
#else
constexpr int64_t kMostMib = 300;
#endif
constexpr int64_t kMostGrowthMib = 64;  // from a quarter of the time to the end
constexpr int kMostFiles = 600;         // 512 connections and what is no connection
const std::set<int> kStatuses = {100, 200, 204, 400, 401, 403, 404, 405, 408, 413, 415, 429, 431, 501, 503, 505};

// The server under attack.
class Target {
 public:
  explicit Target(const char* program) {
    int in[2], out[2];
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
    process_ = fork();
    if (process_ == 0) {
      dup2(in[0], 0);
      dup2(out[1], 1);
      setenv("ASAN_OPTIONS", "quarantine_size_mb=16", 0);
      execl(program, program, "0", static_cast<char*>(nullptr));
      _exit(127);
    }
    close(in[0]);
    close(out[1]);
    input_ = in[1];
    std::string url;
    for (char c = 0; read(out[0], &c, 1) == 1 && c != '\n';) url += c;
    close(out[0]);
    if (url.rfind(':') == std::string::npos) throw std::runtime_error(fmt::format("{}: no address", program));
    port_ = std::stoi(url.substr(url.rfind(':') + 1));
  }
  int port() const { return port_; }
  bool runs() const { return waitpid(process_, nullptr, WNOHANG) == 0; }
  int64_t rss_mib() const {
    std::ifstream status(fmt::format("/proc/{}/status", process_));
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with("VmRSS:")) return std::stoll(line.substr(6)) >> 10;
    }
    return 0;
  }
  int files() const {
    std::error_code ignored;
    const std::filesystem::directory_iterator all(fmt::format("/proc/{}/fd", process_), ignored);
    return static_cast<int>(std::distance(std::filesystem::begin(all), std::filesystem::end(all)));
  }
  // How it ends when it is asked to; "" where that is well.
  std::string end() {
    close(input_);
    int status = 0;
    for (int i = 0; i < 600; ++i) {
      if (waitpid(process_, &status, WNOHANG) == process_) return status == 0 ? "" : fmt::format("status {}", status);
      std::this_thread::sleep_for(50ms);
    }
    kill(process_, SIGKILL);
    waitpid(process_, &status, 0);
    return "it did not end";
  }

 private:
  pid_t process_ = -1;
  int input_ = -1, port_ = 0;
};

// What one case sends, all from one seed.
class Maker {
 public:
  explicit Maker(uint64_t seed) : random_(seed) {}

  size_t below(size_t count) { return random_() % count; }
  template <typename T, size_t N>
  const T& one_of(const T (&all)[N]) {
    return all[below(N)];
  }

  std::string request() {
    static const char* const methods[] = {"GET", "GET", "HEAD", "OPTIONS", "POST", "DELETE", "get", "PRI"};
    static const char* const targets[] = {"/",
                                          "/health",
                                          "/v1/models",
                                          "/metrics",
                                          "/metrics.json",
                                          "*",
                                          "/v1/models/x",
                                          "/openapi.json",
                                          "/none?x=%00",
                                          "http://localhost/health",
                                          "http://evil/health"};
    if (below(2) == 0) return completion();
    return fmt::format("{} {} HTTP/1.{}\r\nHost: {}\r\n{}\r\n", one_of(methods), one_of(targets), below(8) == 0 ? 0 : 1,
                       host(), headers());
  }

  std::string completion() {
    static const char* const paths[] = {"/v1/completions", "/v1/chat/completions", "/v1/memory/trace", "/tokenize",
                                        "/detokenize"};
    std::string body = json_body();
    if (below(4) == 0) body = damaged(body, 3);
    const std::string head = fmt::format("POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n{}",
                                         one_of(paths), host(), headers());
    if (below(2) == 0) return head + fmt::format("Content-Length: {}\r\n\r\n{}", body.size(), body);
    return head + "Transfer-Encoding: chunked\r\n\r\n" + chunked(body);
  }

  // Changes some bytes, takes some out, says some twice.
  std::string damaged(std::string text, size_t most) {
    static const char* const pieces[] = {"\r\n",
                                         "\n",
                                         "\r",
                                         ":",
                                         " ",
                                         "\0x",
                                         "\xff\xfe",
                                         "0\r\n\r\n",
                                         "[",
                                         "\"",
                                         "HTTP/1.1",
                                         "Content-Length: 5\r\n",
                                         "Transfer-Encoding: chunked\r\n",
                                         "%00",
                                         "99999999999"};
    for (size_t n = 1 + below(most); n > 0 && !text.empty(); --n) {
      const size_t at = below(text.size());
      switch (below(4)) {
        case 0: text[at] = static_cast<char>(below(256)); break;
        case 1: text.erase(at, 1 + below(8)); break;
        case 2: text.insert(at, one_of(pieces)); break;
        default: text.insert(at, text.substr(at, below(40))); break;
      }
    }
    return text;
  }

  // Something that never ends, until a limit is met.
  std::string endless() {
    static const char* const begins[] = {
        "GET /health HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        "GET /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        "GET /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5;",
        "GET /health HTTP/1.1\r\nHost: localhost\r\n",
        "GET /",
        ""};
    static const char* const agains[] = {"X: a\r\n", "a", "1;abc\r\nx\r\n", "\r\n", "0", " ", "\t", ": ", "a: b\n"};
    std::string out = one_of(begins);
    const std::string again = one_of(agains);
    for (const size_t size = 20'000 + below(200'000); out.size() < size;) out += again;
    return out;
  }

 private:
  std::string host() {
    static const char* const hosts[] = {"localhost", "localhost", "127.0.0.1:80", "LocalHost.",
                                        "[::1]:1",   "[evil]",    "evil",         ""};
    return below(4) == 0 ? one_of(hosts) : hosts[0];
  }
  std::string headers() {
    static const char* const some[] = {"",
                                       "",
                                       "",
                                       "Connection: close\r\n",
                                       "Connection: keep-alive, close\r\n",
                                       "Expect: 100-continue\r\n",
                                       "X-Request-Id: a.b\r\n",
                                       "X-Request-Id: a b\r\n",
                                       "Transfer-Encoding: gzip\r\n",
                                       "Content-Length: 0\r\n",
                                       "Upgrade: h2c\r\n",
                                       "Authorization: Bearer x\r\n",
                                       "Content-Type: text/plain\r\n"};
    return below(2) == 0 ? "" : std::string(one_of(some)) + one_of(some);
  }
  std::string chunked(const std::string& body) {
    std::string out;
    for (size_t at = 0; at < body.size();) {
      const size_t size = std::min(1 + below(60), body.size() - at);
      out += fmt::format("{:x}{}\r\n{}\r\n", size, below(8) == 0 ? ";a=\"b\"" : "", body.substr(at, size));
      at += size;
    }
    return out + "0\r\n" + (below(8) == 0 ? "X-Sum: 1\r\n" : "") + "\r\n";
  }
  std::string json_body() {
    static const char* const prompts[] = {"\"a\"",     "\"\\u6f22\\u5b57\"",
                                          "[1,2,3]",   "[\"a\",\"b\"]",
                                          "[[1],[2]]", "5",
                                          "null",      "\"\"",
                                          "[]",        "[-1]",
                                          "[1e9]",     "{}"};
    static const char* const fields[] = {"\"temperature\":0",
                                         "\"temperature\":3",
                                         "\"stop\":\"mo\"",
                                         "\"stop\":[\"a\",\"e\"]",
                                         "\"n\":2",
                                         "\"n\":99",
                                         "\"logprobs\":2",
                                         "\"stream\":true",
                                         "\"memory\":\"off\"",
                                         "\"memory_trace\":true",
                                         "\"top_p\":0",
                                         "\"seed\":-1",
                                         "\"echo\":true",
                                         "\"stream_options\":{\"include_usage\":true}",
                                         "\"max_tokens\":1e99",
                                         "\"x\":[[[[]]]]"};
    std::string out = fmt::format("{{\"max_tokens\":{},\"prompt\":{}", 1 + below(12), one_of(prompts));
    if (below(2) == 0) out += ",\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]";
    for (size_t n = below(4); n > 0; --n) out += fmt::format(",{}", one_of(fields));
    return out + "}";
  }

  std::mt19937_64 random_;
};

class Attack {
 public:
  explicit Attack(const char* program) : target_(program) {}

  int run(uint64_t first, uint64_t cases, std::chrono::seconds time) {
    const auto begin = Clock::now();
    const int files_before = target_.files();
    const uint64_t end = first + cases;
    for (number_ = first; time.count() > 0 ? Clock::now() - begin < time : number_ < end; ++number_) {
      one_case();
      if (number_ % 50 == 0 && !look()) break;
      const bool quarter = time.count() > 0 ? Clock::now() - begin >= time / 4 : number_ >= first + cases / 4;
      if (settled_mib_ == 0 && quarter) settled_mib_ = std::max<int64_t>(target_.rss_mib(), 1);
    }
    held_.clear();
    if (look()) check_end(files_before);
    if (const std::string how = target_.end(); !how.empty()) fail("the server ended badly: " + how);
    std::string statuses;
    for (const auto& [status, count] : statuses_) statuses += fmt::format(" {}: {},", status, count);
    fmt::print("{} requests, replies{} peak {} descriptors, memory {} MiB at a quarter, {} MiB at the end\n", requests_,
               statuses, peak_files_, settled_mib_, last_mib_);
    fmt::print("attack: http_server, {} cases, {} failures, peak {} MiB\n", number_ - first, failures_, peak_mib_);
    return failures_ == 0 ? 0 : 1;
  }

 private:
  void fail(const std::string& what) {
    ++failures_;
    if (failures_ <= 20) fmt::print("case {}: {}\n", number_, what);
  }

  void one_case() {
    Maker make(number_);
    const size_t kind = make.below(100);
    try {
      if (kind < 25) return whole(make);
      if (kind < 32) return burst(make);
      std::string text;
      for (size_t n = 1 + make.below(6); n > 0; --n) text += make.request();
      if (kind < 40) text = make.endless();
      if (kind < 75) text = make.damaged(text, 4);
      if (kind >= 85) text.resize(make.below(text.size() + 1));
      part(make, text);
    } catch (const std::exception& problem) {
      fail(problem.what());
    }
  }

  // A request in order, and its answer.
  void whole(Maker& make) {
    HttpClient client(target_.port());
    client.send(make.completion());
    ++requests_;
    const int status = client.read_reply().status;
    if (status == 100) return note(client.read_reply().status);
    note(status);
  }

  // Connections that begin and then say nothing; they are given up some cases later.
  void burst(Maker& make) {
    for (size_t n = held_.size() > 150 ? 100 : 0; n > 0; --n) held_.pop_front();
    for (size_t n = make.below(20); n > 0; --n) {
      held_.emplace_back(target_.port());
      const std::string text = make.request();
      held_.back().send(text.substr(0, make.below(text.size())));
      ++requests_;
    }
  }

  // Bytes, in pieces; then the client ends its side, and the server has to end the other.
  void part(Maker& make, const std::string& text) {
    HttpClient client(target_.port());
    for (size_t at = 0; at < text.size();) {
      const size_t size = make.below(4) == 0 ? 1 + make.below(40) : text.size();
      client.send(std::string_view(text).substr(at, size));
      at += size;
    }
    ++requests_;
    const size_t how = make.below(8);
    if (how == 0) return client.reset();
    if (how == 1) return client.close();
    if (how == 2) client.wait_for("\r\n\r\n", 20ms);
    client.half_close();
    if (!client.ended(20s)) fail("the server holds a connection whose client has ended");
    const std::string got = client.wait_for("\r\n\r\n\r\n", 0ms);
    if (got.empty()) return;
    for (size_t at = 0; at != std::string::npos; at = got.find("\nHTTP/1.1 ", at)) {
      if (at > 0) ++at;
      if (!got.substr(at).starts_with("HTTP/1.1 ") || got.size() < at + 12)
        return fail("no status line: " + got.substr(at, 40));
      note(std::atoi(got.c_str() + at + 9));
    }
  }

  void note(int status) {
    ++statuses_[status];
    if (kStatuses.count(status) == 0) fail(fmt::format("status {}", status));
  }

  // Whether the server is there, answers, and is as large as it may be.
  bool look() {
    if (!target_.runs()) {
      fail("the server is gone");
      return false;
    }
    try {
      const int status = HttpClient(target_.port()).get("/health").status;
      if (status != 200) fail(fmt::format("/health: status {}", status));
    } catch (const std::exception& problem) {
      fail(problem.what());
    }
    last_mib_ = target_.rss_mib();
    peak_mib_ = std::max(peak_mib_, last_mib_);
    peak_files_ = std::max(peak_files_, target_.files());
    if (last_mib_ > kMostMib) fail(fmt::format("memory: {} MiB, wanted at most {}", last_mib_, kMostMib));
    if (peak_files_ > kMostFiles) fail(fmt::format("{} descriptors, wanted at most {}", peak_files_, kMostFiles));
    return true;
  }

  // Nothing stays behind: no connection, no descriptor, no request in the engine.
  void check_end(int files_before) {
    int files = 0;
    for (int i = 0; i < 400; ++i) {
      files = target_.files();
      if (files <= files_before) break;
      std::this_thread::sleep_for(25ms);
    }
    if (files > files_before) fail(fmt::format("{} descriptors at the end, {} at the beginning", files, files_before));
    const std::string numbers = HttpClient(target_.port()).get("/metrics.json").body;
    if (numbers.find("\"running\":0") == std::string::npos)
      fail("requests stay in the engine: " + numbers.substr(0, 60));
    if (settled_mib_ > 0 && last_mib_ > settled_mib_ + kMostGrowthMib) {
      fail(fmt::format("memory grew from {} MiB to {} MiB", settled_mib_, last_mib_));
    }
  }

  Target target_;
  std::deque<HttpClient> held_;
  std::map<int, uint64_t> statuses_;
  uint64_t number_ = 0, requests_ = 0, failures_ = 0;
  int64_t peak_mib_ = 0, last_mib_ = 0, settled_mib_ = 0;
  int peak_files_ = 0;
};

}  // namespace
}  // namespace engram

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: http_attack SERVE_FAKE [CASES [FIRST]]\n");
    return 2;
  }
  signal(SIGPIPE, SIG_IGN);
  const char* seconds = std::getenv("ENGRAM_ATTACK_SECONDS");
  const uint64_t cases = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 4000;
  const uint64_t first = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 0;
  return engram::Attack(argv[1]).run(first, cases, std::chrono::seconds(seconds == nullptr ? 0 : std::atoi(seconds)));
}
