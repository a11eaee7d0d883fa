#include "bench/process.h"

#include <stdlib.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <system_error>

namespace engram::bench {

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

Spread spread_of(const std::vector<double>& values) {
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  return {median(values), *low, *high};
}

std::string this_program() {
  std::error_code error;
  const std::filesystem::path path = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? "engram" : path.string();
}

TemporaryFolder::TemporaryFolder() {
  std::string name = std::filesystem::temp_directory_path() / "engram_bench_XXXXXX";
  if (::mkdtemp(name.data()) == nullptr) throw std::system_error(errno, std::generic_category(), name);
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string shell_quoted(const std::string& word) {
  std::string out = "'";
  for (char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

Result<std::vector<std::string>> run_commands(const std::vector<std::string>& commands) {
  std::vector<std::FILE*> pipes;
  for (const std::string& command : commands) pipes.push_back(::popen(command.c_str(), "r"));
  std::vector<std::string> outputs;
  Status status;
  for (size_t i = 0; i < pipes.size(); ++i) {
    std::string output;
    int code = -1;
    if (pipes[i] != nullptr) {
      char buffer[4096];
      for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, pipes[i])) > 0;) output.append(buffer, n);
      code = ::pclose(pipes[i]);
    }
    if (code != 0 && status.ok()) {
      status = make_status(StatusCode::kInternal, "a benchmark process failed (wait status {}): {}", code, commands[i]);
    }
    outputs.push_back(std::move(output));
  }
  if (!status.ok()) return status;
  return outputs;
}

}  // namespace engram::bench
