// A blocking HTTP client of raw bytes, for tests that have to misbehave.
#pragma once
#include <chrono>
#include <map>
#include <string>
#include <string_view>

namespace engram {

struct ClientReply {
  int status = 0;                              // 0: the connection ended before a reply
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;                            // chunks joined
};

class HttpClient {
 public:
  // `from`: the address that it connects from, one of this machine's; none: as the system chooses.
  explicit HttpClient(int port, const char* from = nullptr);
  ~HttpClient();
  HttpClient(HttpClient&& other) noexcept : socket_(other.socket_), buffer_(std::move(other.buffer_)) {
    other.socket_ = -1;
  }

  void send(std::string_view bytes);
  // What the server sends until `until` is in it, or it ends, or the time is over; the bytes stay for read_reply().
  std::string wait_for(std::string_view until, std::chrono::milliseconds limit = std::chrono::seconds(10));
  ClientReply read_reply(bool head = false);
  ClientReply get(const std::string& path, const std::string& headers = "");
  ClientReply post(const std::string& path, const std::string& body, const std::string& headers = "");
  bool ended(std::chrono::milliseconds limit = std::chrono::seconds(10));  // the server closes within the time
  void close();
  void reset();        // closes with a RST
  void read_slowly();  // a small receive buffer; call before any data is sent
  void half_close();

  static std::string post_text(const std::string& path, const std::string& body, const std::string& headers = "");

 private:
  bool fill(std::chrono::milliseconds limit);  // false: end or no data in time
  std::string take(size_t count);
  std::string take_line();

  int socket_ = -1;
  std::string buffer_;
  bool end_ = false;
};

}  // namespace engram
