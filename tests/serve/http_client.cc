#include "tests/serve/http_client.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>

namespace engram {

using std::chrono::milliseconds;

HttpClient::HttpClient(int port, const char* from) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  if (from != nullptr) {
    sockaddr_in own{};
    own.sin_family = AF_INET;
    inet_pton(AF_INET, from, &own.sin_addr);
    if (::bind(socket_, reinterpret_cast<sockaddr*>(&own), sizeof(own)) != 0) throw std::runtime_error(from);
  }
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (socket_ < 0 || ::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    throw std::runtime_error(fmt::format("cannot connect to port {}: errno {}", port, errno));
  }
}

HttpClient::~HttpClient() { close(); }

void HttpClient::close() {
  if (socket_ >= 0) ::close(socket_);
  socket_ = -1;
}

void HttpClient::reset() {
  const linger hard{1, 0};
  setsockopt(socket_, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
  close();
}

void HttpClient::read_slowly() {
  const int bytes = 4096;
  setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
}

void HttpClient::half_close() { ::shutdown(socket_, SHUT_WR); }

void HttpClient::send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return;  // the server has closed; what it said is still to be read
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
}

bool HttpClient::fill(milliseconds limit) {
  if (end_) return false;
  pollfd poll_for{socket_, POLLIN, 0};
  if (::poll(&poll_for, 1, static_cast<int>(limit.count())) <= 0) return false;
  char bytes[16384];
  const ssize_t count = ::recv(socket_, bytes, sizeof(bytes), 0);
  if (count <= 0) end_ = true;
  if (count > 0) buffer_.append(bytes, static_cast<size_t>(count));
  return count > 0;
}

std::string HttpClient::wait_for(std::string_view until, milliseconds limit) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (buffer_.find(until) == std::string::npos && std::chrono::steady_clock::now() < end) {
    if (!fill(milliseconds(100)) && end_) break;
  }
  return buffer_;
}

std::string HttpClient::take(size_t count) {
  while (buffer_.size() < count) {
    if (!fill(milliseconds(10'000))) break;
  }
  std::string out = buffer_.substr(0, count);
  buffer_.erase(0, count);
  return out;
}

std::string HttpClient::take_line() {
  wait_for("\r\n");
  const size_t end = buffer_.find("\r\n");
  if (end == std::string::npos) return take(buffer_.size());
  std::string line = take(end);
  take(2);
  return line;
}

ClientReply HttpClient::read_reply(bool head) {
  ClientReply reply;
  const std::string first = take_line();
  if (first.size() < 12) return reply;
  reply.status = std::stoi(first.substr(9, 3));
  for (std::string line = take_line(); !line.empty(); line = take_line()) {
    const size_t colon = line.find(": ");
    std::string name = line.substr(0, colon);
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
    reply.headers[name] = line.substr(colon + 2);
  }
  if (head || reply.status == 204 || reply.status == 100) return reply;
  if (reply.headers.count("transfer-encoding") > 0) {
    for (size_t size = 1; size > 0;) {
      const std::string line = take_line();
      if (line.empty()) return reply;  // cut off
      size = std::stoul(line, nullptr, 16);
      reply.body += take(size);
      take_line();
    }
  } else if (reply.headers.count("content-length") > 0) {
    reply.body = take(std::stoul(reply.headers["content-length"]));
  } else {
    while (fill(milliseconds(10'000))) {
    }
    reply.body = take(buffer_.size());
  }
  return reply;
}

std::string HttpClient::post_text(const std::string& path, const std::string& body, const std::string& headers) {
  return fmt::format(
      "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{}Content-Length: {}\r\n\r\n{}", path,
      headers, body.size(), body);
}

ClientReply HttpClient::get(const std::string& path, const std::string& headers) {
  send(fmt::format("GET {} HTTP/1.1\r\nHost: localhost\r\n{}\r\n", path, headers));
  return read_reply();
}

ClientReply HttpClient::post(const std::string& path, const std::string& body, const std::string& headers) {
  send(post_text(path, body, headers));
  return read_reply();
}

bool HttpClient::ended(milliseconds limit) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!end_ && std::chrono::steady_clock::now() < end) fill(milliseconds(50));
  return end_;
}

}  // namespace engram
