#include "engram/store/import/table_tools.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "engram/core/mix.h"
#include "engram/kernels/row_codec.h"

namespace engram {
namespace {

constexpr int64_t kBatchBytes = 4 << 20;

int64_t batch_rows(int64_t row_bytes) { return std::max<int64_t>(1, kBatchBytes / row_bytes); }

void advance(Progress* progress, int64_t bytes) {
  if (progress != nullptr) progress->advance(bytes);
}

// Row bytes from a counter: word i of a row is mix_bits(key + i * step).
class RandomRow {
 public:
  RandomRow(uint64_t seed, int layer_id, int64_t row)
      : key_(mix_bits(mix_bits(seed + 1) + static_cast<uint64_t>(layer_id)) +
             static_cast<uint64_t>(row) * 0x632BE59BD9B4E019u) {}
  uint64_t next() { return mix_bits(key_ += 0x9E3779B97F4A7C15u); }

 private:
  uint64_t key_;
};

// e4m3 codes without NaN, scales of 2^-10 .. 2^-7 as trained tables have them.
void fill_fp8(RandomRow random, const RowFormat& format, std::byte* row) {
  for (int64_t c = 0; c < format.width; c += 8) {
    uint64_t word = random.next();
    // Where the seven low bits of a byte are all ones, clear the lowest.
    const uint64_t low = word & 0x7F7F7F7F7F7F7F7Fu;
    word ^= ((low + 0x0101010101010101u) & 0x8080808080808080u) >> 7;
    std::memcpy(row + c, &word, static_cast<size_t>(std::min<int64_t>(8, format.width - c)));
  }
  for (int64_t b = 0; b < format.num_scales(); ++b)
    row[format.width + b] = static_cast<std::byte>(117 + (random.next() & 3));
}

// Uniform in [-0.02, 0.02).
void fill_values(RandomRow random, float* values, int64_t width) {
  for (int64_t c = 0; c < width; ++c) values[c] = (static_cast<float>(random.next() >> 40) * 0x1p-23f - 1.0f) * 0.02f;
}

Status fill_rows(uint64_t seed, const RowTable& table, int64_t first, int64_t count, std::byte* out,
                 std::vector<float>& values) {
  if (table.format.type == RowType::kFP8) {
    for (int64_t i = 0; i < count; ++i)
      fill_fp8(RandomRow(seed, table.layer_id, first + i), table.format, out + i * table.row_bytes);
    return {};
  }
  values.resize(static_cast<size_t>(count * table.format.width));
  for (int64_t i = 0; i < count; ++i)
    fill_values(RandomRow(seed, table.layer_id, first + i), values.data() + i * table.format.width, table.format.width);
  return encode_rows(table.format, values.data(), count, out);
}

// Streams every row that the writer still lacks; make(table, first, count, out) fills them.
template <typename Make>
Status write_rows(Env& env, const std::string& path, const RowFileInfo& info, bool resume, Progress* progress,
                  Make make) {
  ENGRAM_ASSIGN_OR_RETURN(auto writer, RowFileWriter::create(env, path, info, resume));
  std::vector<std::byte> rows;
  for (int t = 0; t < static_cast<int>(info.tables.size()); ++t) {
    const RowTable& table = info.tables[static_cast<size_t>(t)];
    int64_t done = t < writer->next_table() ? table.num_rows : t == writer->next_table() ? writer->next_row() : 0;
    advance(progress, done * table.row_bytes);
    while (done < table.num_rows) {
      const int64_t count = std::min(batch_rows(table.row_bytes), table.num_rows - done);
      rows.resize(static_cast<size_t>(count * table.row_bytes));
      if (Status status = make(t, done, count, std::span(rows)); !status.ok()) {
        if (status.code() == StatusCode::kInvalidArgument) {  // no later run gets further: nothing may stay
          writer.reset();
          (void)env.remove_file(path + ".partial");
        }
        return status;
      }
      ENGRAM_RETURN_IF_ERROR(writer->append(rows));
      done += count;
      advance(progress, count * table.row_bytes);
    }
  }
  return writer->finish();
}

Result<RowFileInfo> synthetic_info(const SyntheticOptions& options, int64_t start, const TokenMap& map) {
  EngramConfig config = options.config;
  config.vocab_size.assign(static_cast<size_t>(config.max_ngram_size - 1), start);
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<int64_t> num_rows, count_rows(config));
  std::vector<RowTable> tables;
  for (size_t i = 0; i < num_rows.size(); ++i)
    tables.push_back({config.layer_ids[i], num_rows[i], default_row_format(options.type, config.head_dim)});
  const int compressed_pad = map.ids()[static_cast<size_t>(config.pad_token_id)];
  return RowFileInfo::create(std::move(tables), RowFileHash{config, compressed_pad, map.sha256()});
}

}  // namespace

SyntheticOptions::SyntheticOptions() {
  config.layer_ids = {1, 14};
  config.max_ngram_size = 4;
  config.n_heads = 8;
  config.head_dim = 256;
}

Result<RowFileInfo> plan_synthetic(const SyntheticOptions& options, int64_t file_bytes, const TokenMap& map) {
  SyntheticOptions fitted = options;
  fitted.config.compressed_vocab_size = map.compressed_vocab_size();
  if (fitted.config.pad_token_id < 0 || fitted.config.pad_token_id >= map.vocab_size())
    return invalid_argument("pad_token_id is {}, wanted 0 .. {}", fitted.config.pad_token_id, map.vocab_size() - 1);
  // The size grows with the start of the search: halve the interval.
  constexpr int64_t kSmallestStart = 2;
  int64_t low = kSmallestStart, high = INT32_MAX / 2;
  ENGRAM_ASSIGN_OR_RETURN(RowFileInfo best, synthetic_info(fitted, low, map));
  if (best.file_bytes() > file_bytes)
    return invalid_argument("a file of {} bytes is too small for {} layers with {} heads each, wanted at least {}",
                            file_bytes, fitted.config.layer_ids.size(), fitted.config.rows_per_token(),
                            best.file_bytes());
  while (low + 1 < high) {
    const int64_t middle = low + (high - low) / 2;
    ENGRAM_ASSIGN_OR_RETURN(RowFileInfo info, synthetic_info(fitted, middle, map));
    if (info.file_bytes() <= file_bytes) {
      low = middle;
      best = std::move(info);
    } else {
      high = middle;
    }
  }
  ENGRAM_RETURN_IF_ERROR(best.layout().status());
  return best;
}

Status write_synthetic(Env& env, const std::string& path, const RowFileInfo& info, uint64_t seed, bool resume,
                       Progress* progress) {
  std::vector<float> values;
  return write_rows(env, path, info, resume, progress,
                    [&](int table, int64_t first, int64_t count, std::span<std::byte> out) {
                      return fill_rows(seed, info.tables[static_cast<size_t>(table)], first, count, out.data(), values);
                    });
}

Status make_synthetic_rows(const RowTable& table, uint64_t seed, int64_t first, int64_t count,
                           std::span<std::byte> out) {
  std::vector<float> values;
  return fill_rows(seed, table, first, count, out.data(), values);
}

Result<RowFileInfo> plan_convert(const TableSource& source, std::optional<RowType> type) {
  std::vector<RowTable> tables;
  for (const SourceTable& table : source.tables()) {
    const bool keep = !type || *type == table.format.type;
    tables.push_back(
        {table.layer_id, table.num_rows, keep ? table.format : default_row_format(*type, table.format.width)});
  }
  return RowFileInfo::create(std::move(tables), source.hash());
}

Status convert_table(Env& env, const TableSource& source, const std::string& path, const RowFileInfo& info, bool resume,
                     Progress* progress) {
  std::vector<std::byte> stored;
  std::vector<float> values;
  return write_rows(
      env, path, info, resume, progress, [&](int t, int64_t first, int64_t count, std::span<std::byte> out) -> Status {
        const RowFormat& from = source.tables()[static_cast<size_t>(t)].format;
        const RowTable& to = info.tables[static_cast<size_t>(t)];
        if (from == to.format) return source.read_rows(t, first, count, out);
        const auto row_bytes = static_cast<size_t>(from.row_bytes());
        stored.resize(static_cast<size_t>(count) * row_bytes);
        values.resize(static_cast<size_t>(count * from.width));
        ENGRAM_RETURN_IF_ERROR(source.read_rows(t, first, count, stored));
        decode_rows(from, stored.data(), row_bytes, count, values.data());
        return encode_rows(to.format, values.data(), count, out.data())
            .with_context(fmt::format("{}: layer {}, counted from row {}", source.path(), to.layer_id, first));
      });
}

Result<VerifyReport> verify_row_file(Env& env, const std::string& path, Progress* progress) {
  constexpr int64_t kPages = 1024;
  ENGRAM_ASSIGN_OR_RETURN(const RowFileReader reader, RowFileReader::open(env, path));
  VerifyReport report{.bytes = reader.info().file_bytes()};
  std::vector<std::byte> buffer(static_cast<size_t>(kPages * kRowPageBytes));
  for (int64_t page = 0; page < reader.info().num_pages; page += kPages) {
    const int64_t count = std::min(kPages, reader.info().num_pages - page);
    const auto pages = std::span(buffer).first(static_cast<size_t>(count * kRowPageBytes));
    Status status = reader.read_pages(page, pages);
    if (!status.ok() && status.code() != StatusCode::kDataLoss) return status;
    for (int64_t i = 0; !status.ok() && i < count; ++i) {  // page by page, to count them
      const Status one = reader.read_pages(page + i, pages.first(kRowPageBytes));
      if (one.ok()) continue;
      if (report.damaged_pages++ == 0) report.first_damage = one.message();
    }
    advance(progress, count * kRowPageBytes);
  }
  return report;
}

Status verify_values(const TableSource& source, Progress* progress) {
  std::vector<std::byte> rows;
  std::vector<float> values;
  for (int t = 0; t < static_cast<int>(source.tables().size()); ++t) {
    const SourceTable& table = source.tables()[static_cast<size_t>(t)];
    const int64_t row_bytes = table.format.row_bytes(), width = table.format.width;
    for (int64_t first = 0; first < table.num_rows; first += batch_rows(row_bytes)) {
      const int64_t count = std::min(batch_rows(row_bytes), table.num_rows - first);
      rows.resize(static_cast<size_t>(count * row_bytes));
      values.resize(static_cast<size_t>(count * width));
      ENGRAM_RETURN_IF_ERROR(source.read_rows(t, first, count, rows));
      decode_rows(table.format, rows.data(), static_cast<size_t>(row_bytes), count, values.data());
      const auto bad = std::find_if(values.begin(), values.end(), [](float value) { return !std::isfinite(value); });
      if (bad != values.end()) {
        const int64_t at = bad - values.begin();
        return data_loss("{}: layer {} row {} column {} is {}, wanted a finite number", source.path(), table.layer_id,
                         first + at / width, at % width, *bad);
      }
      advance(progress, count * row_bytes);
    }
  }
  return {};
}

int64_t count_row_bytes(const RowFileInfo& info) {
  int64_t bytes = 0;
  for (const RowTable& table : info.tables) bytes += table.num_rows * table.row_bytes;
  return bytes;
}

int64_t count_row_bytes(const TableSource& source) {
  int64_t bytes = 0;
  for (const SourceTable& table : source.tables()) bytes += table.num_rows * table.format.row_bytes();
  return bytes;
}

}  // namespace engram
