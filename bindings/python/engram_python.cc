// The Python module engram._engram: the C ABI's handles as objects, numpy arrays in and out. It has no other logic.
//
// The GIL is released while the library works. Rows of a read in flight belong to the Pending that was returned.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "engram/engram.h"

namespace nb = nanobind;

namespace {

template <typename T>
using Input = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Output = nb::ndarray<nb::numpy, T>;

// ValueError, IndexError, FileNotFoundError, MemoryError or RuntimeError, with the library's message.
void check(engram_status status) {
  if (status == ENGRAM_OK) return;
  const char* message = engram_last_error();
  switch (status) {
    case ENGRAM_INVALID_ARGUMENT:
    case ENGRAM_FAILED_PRECONDITION: throw nb::value_error(message);
    case ENGRAM_OUT_OF_RANGE: throw nb::index_error(message);
    case ENGRAM_NOT_FOUND: PyErr_SetString(PyExc_FileNotFoundError, message); throw nb::python_error();
    case ENGRAM_RESOURCE_EXHAUSTED: PyErr_SetString(PyExc_MemoryError, message); throw nb::python_error();
    default: throw std::runtime_error(message);
  }
}

// A call of the library without the GIL.
template <typename Function>
void call(Function function) {
  engram_status status;
  {
    nb::gil_scoped_release release;
    status = function();
  }
  check(status);
}

// An array [rows, columns] that owns its memory.
template <typename T>
Output<T> own(std::unique_ptr<T[]> data, size_t rows, size_t columns) {
  T* const raw = data.release();
  nb::capsule owner(raw, [](void* pointer) noexcept { delete[] static_cast<T*>(pointer); });
  return Output<T>(raw, {rows, columns}, owner);
}

struct Hasher {
  explicit Hasher(engram_hasher* owned) : handle(owned) {}
  Hasher(const Hasher&) = delete;
  Hasher& operator=(const Hasher&) = delete;
  ~Hasher() { engram_hasher_free(handle); }
  engram_hasher* const handle;
};

struct Table {
  explicit Table(engram_table* owned) : handle(owned) {}
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;
  // Closing waits for the reads in flight.
  ~Table() {
    nb::gil_scoped_release release;
    engram_table_close(handle);
  }
  engram_layer_info layer(size_t index) const {
    engram_layer_info info{};
    info.size = sizeof info;
    check(engram_table_layer(handle, index, &info));
    return info;
  }
  engram_table* const handle;
};

struct Pending {
  Pending(size_t rows_count, size_t bytes_each)
      : rows(new uint8_t[rows_count * bytes_each]), num_rows(rows_count), row_bytes(bytes_each) {}
  Pending(const Pending&) = delete;
  Pending& operator=(const Pending&) = delete;
  ~Pending() {
    if (handle == nullptr) return;
    nb::gil_scoped_release release;
    (void)engram_wait(handle);
  }
  engram_pending* handle = nullptr;  // nullptr after wait()
  std::unique_ptr<uint8_t[]> rows;
  const size_t num_rows, row_bytes;
};

Hasher* create_hasher(const std::vector<int32_t>& layer_ids, int32_t max_ngram_size, int32_t n_heads,
                      const std::vector<int64_t>& vocab_size, int64_t seed, int32_t pad_token_id,
                      const std::optional<std::string>& tokenizer, std::optional<Input<int32_t>> token_map,
                      int32_t compressed_vocab_size, const std::string& rule, double vocab_size_ratio) {
  engram_hash_config config{};
  config.size = sizeof config;
  config.layer_ids = layer_ids.data();
  config.num_layers = layer_ids.size();
  config.max_ngram_size = max_ngram_size;
  config.n_heads = n_heads;
  // The library reads max_ngram_size - 1 numbers.
  if (rule != "longcat" && (max_ngram_size < 2 || vocab_size.size() != static_cast<size_t>(max_ngram_size - 1)))
    throw nb::value_error("vocab_size: wanted max_ngram_size - 1 numbers, at least one");
  config.vocab_size = vocab_size.data();
  config.seed = seed;
  config.pad_token_id = pad_token_id;
  config.tokenizer = tokenizer ? tokenizer->c_str() : nullptr;
  config.token_map = token_map ? token_map->data() : nullptr;
  config.token_map_size = token_map ? token_map->size() : 0;
  config.compressed_vocab_size = compressed_vocab_size;
  config.rule = rule.c_str();
  config.vocab_size_ratio = vocab_size_ratio;
  engram_hasher* handle = nullptr;
  call([&] { return engram_hasher_create(&config, &handle); });
  return new Hasher(handle);
}

Output<int64_t> hash(const Hasher& hasher, size_t layer, Input<int32_t> token_ids, Input<int32_t> starts,
                     Input<int32_t> lookback) {
  const auto width = static_cast<size_t>(engram_hasher_rows_per_token(hasher.handle));
  std::unique_ptr<int64_t[]> rows(new int64_t[token_ids.size() * width]);
  call([&] {
    return engram_hash(hasher.handle, layer, token_ids.data(), token_ids.size(), starts.data(), starts.size(),
                       lookback.data(), lookback.size(), rows.get());
  });
  return own(std::move(rows), token_ids.size(), width);
}

Output<int32_t> canonical_ids(const Hasher& hasher, Input<int32_t> token_ids) {
  std::unique_ptr<int32_t[]> ids(new int32_t[token_ids.size()]);
  call([&] { return engram_canonical_ids(hasher.handle, token_ids.data(), token_ids.size(), ids.get()); });
  return own(std::move(ids), token_ids.size(), 1);
}

Table* open_table(const std::string& uri) {
  engram_table* handle = nullptr;
  call([&] { return engram_table_open(uri.c_str(), &handle); });
  return new Table(handle);
}

Hasher* table_hasher(const Table& table, const std::optional<std::string>& tokenizer) {
  engram_hasher* handle = nullptr;
  call([&] { return engram_table_hasher(table.handle, tokenizer ? tokenizer->c_str() : nullptr, &handle); });
  return new Hasher(handle);
}

Pending* start_read(const Table& table, size_t layer, Input<int64_t> row_ids) {
  const auto row_bytes = static_cast<size_t>(table.layer(layer).row_bytes);
  auto pending = std::make_unique<Pending>(row_ids.size(), row_bytes);
  call([&] {
    return engram_read(table.handle, layer, row_ids.data(), row_ids.size(), pending->rows.get(),
                       row_ids.size() * row_bytes, &pending->handle);
  });
  return pending.release();
}

Output<uint8_t> wait(Pending& pending) {
  if (pending.handle == nullptr) throw nb::value_error("this read has been waited for already");
  engram_pending* const handle = std::exchange(pending.handle, nullptr);
  call([&] { return engram_wait(handle); });
  return own(std::move(pending.rows), pending.num_rows, pending.row_bytes);
}

template <typename T>
Output<T> decode(const Table& table, size_t layer, Rows rows,
                 engram_status (*decoder)(const engram_table*, size_t, const void*, size_t, T*)) {
  const engram_layer_info info = table.layer(layer);
  if (rows.shape(1) != static_cast<size_t>(info.row_bytes)) throw nb::value_error("rows: wanted [num_rows, row_bytes]");
  const size_t num_rows = rows.shape(0), width = static_cast<size_t>(info.row_dim);
  std::unique_ptr<T[]> values(new T[num_rows * width]);
  call([&] { return decoder(table.handle, layer, rows.data(), num_rows, values.get()); });
  return own(std::move(values), num_rows, width);
}

std::string stats_text(const Table& table, size_t layer, const std::string& format) {
  const int64_t size = engram_table_stats_text(table.handle, layer, format.c_str(), nullptr, 0);
  if (size < 0) throw nb::value_error(engram_last_error());
  std::string text(static_cast<size_t>(size) + 64, '\0');  // counters grow meanwhile
  const int64_t now = engram_table_stats_text(table.handle, layer, format.c_str(), text.data(), text.size());
  text.resize(std::min(static_cast<size_t>(now), text.size() - 1));
  return text;
}

}  // namespace

NB_MODULE(_engram, module) {
  module.attr("abi_version") = engram_abi_version();
  nb::class_<Hasher>(module, "Hasher")
      .def("num_layers", [](const Hasher& h) { return engram_hasher_num_layers(h.handle); })
      .def("rows_per_token", [](const Hasher& h) { return engram_hasher_rows_per_token(h.handle); })
      .def("num_rows", [](const Hasher& h, size_t layer) { return engram_hasher_num_rows(h.handle, layer); })
      .def("hash", &hash)
      .def("canonical_ids", &canonical_ids);
  module.def("create_hasher", &create_hasher, nb::arg("layer_ids"), nb::arg("max_ngram_size"), nb::arg("n_heads"),
             nb::arg("vocab_size"), nb::arg("seed"), nb::arg("pad_token_id"), nb::arg("tokenizer").none(),
             nb::arg("token_map").none(), nb::arg("compressed_vocab_size"), nb::arg("rule"),
             nb::arg("vocab_size_ratio"));
  nb::class_<Pending>(module, "Pending")
      .def("done", [](const Pending& p) { return p.handle == nullptr || engram_pending_done(p.handle) == 1; })
      .def("wait", &wait);
  nb::class_<Table>(module, "Table")
      .def("num_layers", [](const Table& t) { return engram_table_num_layers(t.handle); })
      .def("layer",
           [](const Table& t, size_t index) {
             const engram_layer_info info = t.layer(index);
             return nb::make_tuple(info.layer_id, info.is_hashed == 1, info.num_rows, info.row_dim, info.row_bytes,
                                   info.dtype);
           })
      .def("hasher", &table_hasher, nb::arg("tokenizer").none())
      .def("read", &start_read, nb::keep_alive<0, 1>())  // the table outlives its reads
      .def("prefetch",
           [](const Table& t, size_t layer, Input<int64_t> row_ids) {
             call([&] { return engram_prefetch(t.handle, layer, row_ids.data(), row_ids.size()); });
           })
      .def("decode_float",
           [](const Table& t, size_t layer, Rows rows) { return decode<float>(t, layer, rows, engram_decode_float); })
      .def("decode_bfloat16", [](const Table& t, size_t layer,
                                 Rows rows) { return decode<uint16_t>(t, layer, rows, engram_decode_bfloat16); })
      .def("stats_text", &stats_text);
  module.def("open_table", &open_table);
}
