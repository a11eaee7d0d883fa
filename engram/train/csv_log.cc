#include "engram/train/csv_log.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <span>

#include "engram/core/json.h"
#include "engram/core/lines.h"

namespace engram {
namespace {

// A column's name holds nothing that a cell would have to be quoted for.
std::string plain(std::string name) {
  std::ranges::replace_if(
      name, [](char c) { return c == ',' || c == '"' || static_cast<unsigned char>(c) < 0x20; }, '_');
  return name;
}

std::vector<std::string> cells(std::string_view line) {
  std::vector<std::string> all;
  for (size_t begin = 0, end = 0; end != std::string_view::npos; begin = end + 1) {
    end = line.find(',', begin);
    all.emplace_back(line.substr(begin, end - begin));
  }
  return all;
}

// 0: no number.
int64_t step_of(std::string_view row) {
  int64_t step = 0;
  std::from_chars(row.data(), row.data() + row.size(), step);
  return step;
}

}  // namespace

Result<std::unique_ptr<CsvLog>> CsvLog::open(Env& env, const std::string& path, const std::vector<std::string>& later,
                                             int64_t step) {
  std::unique_ptr<CsvLog> log(new CsvLog);
  for (const std::string& name : later) log->later_.push_back(plain(name));
  if (env.file_exists(path)) {
    ENGRAM_ASSIGN_OR_RETURN(const std::string text, env.read_file(path, {.max_bytes = INT64_MAX}));
    size_t keep = 0;
    for (std::string_view rest = text; step > 0 && rest.find('\n') != std::string_view::npos;) {
      const std::string_view line = take_line(rest);
      if (keep == 0) {
        log->columns_ = cells(line);
        if (log->columns_[0] != "step")
          return data_loss("{}: got the first column \"{}\", wanted \"step\"", path, quote_text(log->columns_[0], 64));
      } else if (const int64_t got = step_of(line); got < 1 || got > step) {
        break;
      }
      keep += line.size() + 1;
    }
    if (keep < text.size()) ENGRAM_RETURN_IF_ERROR(env.truncate_file(path, static_cast<int64_t>(keep)));
  }
  ENGRAM_ASSIGN_OR_RETURN(log->file_, env.new_appendable_file(path));
  return log;
}

Status CsvLog::append(const nlohmann::ordered_json& line) {
  std::map<std::string, double> numbers;
  std::vector<std::string> names = {"step"};
  for_each_number(line, [&](const std::string& name, double number) {
    names.push_back(plain(name));
    numbers[names.back()] = number;
  });
  std::string text;
  if (columns_.empty()) {
    columns_ = names;
    for (const std::string& name : later_)
      if (!numbers.contains(name)) columns_.push_back(name);
    text = fmt::format("{}\n", fmt::join(columns_, ","));
  }
  text += fmt::format("{}", line.at("step").get<int64_t>());
  for (size_t i = 1; i < columns_.size(); ++i) {
    const auto number = numbers.find(columns_[i]);
    text += number == numbers.end() ? "," : fmt::format(",{}", number->second);
  }
  text += '\n';
  return file_->append(std::as_bytes(std::span(text)));
}

}  // namespace engram
