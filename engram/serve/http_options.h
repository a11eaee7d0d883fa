// HttpServerOptions: addresses, keys, limits and times of a server.
#pragma once
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "engram/serve/log.h"

namespace engram {

struct HttpServerOptions {
  std::string host = "127.0.0.1";     // an address, or localhost
  int port = 8000;                    // 0: any that is free
  std::vector<std::string> api_keys;  // read_api_keys(); empty only on a loopback address
  std::string chat_template;          // of the checkpoint's config.json; empty: no chat
  int threads = 2;                    // that read and write
  int parse_threads = 4;              // that parse bodies and tokenise
  int max_connections = 512;
  int max_connections_per_address = 0;        // 0: a quarter of all; of this machine's own addresses no limit
  std::chrono::milliseconds patience{1'000};  // where places are short, one that kept the server waiting longer goes
  int max_choices = 128;                      // prompts * n of one call
  size_t max_header_bytes = 16 << 10;
  size_t max_body_bytes = 4 << 20;                     // 128 prompts of 4,096 token ids
  size_t max_unsent_bytes = 32 << 20;                  // of a stream whose client does not read
  std::chrono::milliseconds idle_timeout{60'000};      // between two requests
  std::chrono::milliseconds read_timeout{30'000};      // from a request's first byte to its last
  std::chrono::milliseconds write_timeout{30'000};     // without any progress
  std::chrono::milliseconds request_timeout{600'000};  // from a request's last byte to its reply's
  std::chrono::milliseconds drain_timeout{30'000};     // of shutdown(), for what is running
  std::shared_ptr<ServerLog> log;                      // null: nothing is said
  bool access_log = false;                             // a line for every request, not only for those that fail
};

}  // namespace engram
