// The Python module engram._engram: the C ABI's handles as objects. Python brings the memory that a call fills in:
// numpy arrays, or tensors of anybody who speaks DLPack. There is no other logic.
//
// The GIL is released while the library works. A read in flight holds on to the memory that it fills.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstddef>
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
template <typename T>
using Output = nb::ndarray<T, nb::c_contig, nb::device::cpu>;
using Memory = nb::ndarray<nb::c_contig>;  // the caller's, of any type, to be written to

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

// Where the processor may write: its memory, or such as it shares with a device (pinned).
void* host_pointer(const Memory& memory) {
  if (memory.device_type() != nb::device::cpu::value && memory.device_type() != nb::device::cuda_host::value)
    throw nb::value_error("out: wanted memory of the host, got a device's");
  return memory.data();
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
  engram_table* const handle;
};

struct Pending {
  Pending(engram_pending* started, Memory filled) : handle(started), memory(std::move(filled)) {}
  Pending(const Pending&) = delete;
  Pending& operator=(const Pending&) = delete;
  ~Pending() {
    if (handle == nullptr) return;
    nb::gil_scoped_release release;
    (void)engram_wait(handle);
  }
  engram_pending* handle;  // nullptr after wait()
  const Memory memory;
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

// out [tokens, R]
void hash(const Hasher& hasher, size_t layer, Input<int32_t> token_ids, Input<int32_t> starts, Input<int32_t> lookback,
          Output<int64_t> out) {
  if (out.size() != token_ids.size() * static_cast<size_t>(engram_hasher_rows_per_token(hasher.handle)))
    throw nb::value_error("out: wanted [tokens, rows_per_token]");
  call([&] {
    return engram_hash(hasher.handle, layer, token_ids.data(), token_ids.size(), starts.data(), starts.size(),
                       lookback.data(), lookback.size(), out.data());
  });
}

void canonical_ids(const Hasher& hasher, Input<int32_t> token_ids, Output<int32_t> out) {
  if (out.size() != token_ids.size()) throw nb::value_error("out: wanted one for each token");
  call([&] { return engram_canonical_ids(hasher.handle, token_ids.data(), token_ids.size(), out.data()); });
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

Pending* start_read(const Table& table, size_t layer, Input<int64_t> row_ids, Memory out) {
  void* const rows = host_pointer(out);
  engram_pending* handle = nullptr;
  call([&] { return engram_read(table.handle, layer, row_ids.data(), row_ids.size(), rows, out.nbytes(), &handle); });
  return new Pending(handle, std::move(out));
}

// lookback [sequences, N - 1]; outs and what comes back: one for each layer
nb::list read_step(const Table& table, const Hasher& hasher, Input<int32_t> token_ids,
                   const std::vector<size_t>& lengths, std::optional<Input<int32_t>> lookback,
                   std::vector<Memory> outs) {
  if (outs.size() != static_cast<size_t>(engram_table_num_layers(table.handle)))
    throw nb::value_error("out: wanted one for each layer");
  const auto before = static_cast<size_t>(engram_hasher_max_ngram_size(hasher.handle) - 1);
  if (lookback && lookback->size() != lengths.size() * before)
    throw nb::value_error("lookback: wanted [sequences, max_ngram_size - 1]");
  std::vector<void*> rows;
  std::vector<size_t> bytes;
  for (const Memory& out : outs) {
    rows.push_back(host_pointer(out));
    bytes.push_back(out.nbytes());
  }
  std::vector<engram_pending*> handles(outs.size());
  call([&] {
    return engram_read_step(table.handle, hasher.handle, token_ids.data(), token_ids.size(), lengths.data(),
                            lengths.size(), lookback ? lookback->data() : nullptr, rows.data(), bytes.data(),
                            handles.data());
  });
  nb::list started;
  for (size_t i = 0; i < outs.size(); ++i)
    started.append(nb::cast(new Pending(handles[i], std::move(outs[i])), nb::rv_policy::take_ownership));
  return started;
}

void wait(Pending& pending) {
  if (pending.handle == nullptr) throw nb::value_error("this read has been waited for already");
  engram_pending* const handle = std::exchange(pending.handle, nullptr);
  call([&] { return engram_wait(handle); });
}

void decode(const Table& table, size_t layer, nb::ndarray<const uint8_t, nb::c_contig, nb::device::cpu> rows,
            const std::string& dtype, Memory out) {
  const bool is_half = out.dtype().code == static_cast<uint8_t>(nb::dlpack::dtype_code::Float);
  if (dtype == "float32" ? out.dtype() != nb::dtype<float>() : out.dtype().bits != 16 || is_half)
    throw nb::value_error("out: wanted float32 for float32, bfloat16 or 16-bit integers for bfloat16");
  void* const values = host_pointer(out);
  call([&] {
    return engram_decode(table.handle, layer, rows.data(), rows.size(), dtype.c_str(), values, out.nbytes());
  });
}

std::string stats_text(const Table& table, size_t layer, const std::string& format) {
  const int64_t size = engram_table_stats_text(table.handle, layer, format.c_str(), nullptr, 0);
  if (size < 0) throw nb::value_error(engram_last_error());
  std::string text(static_cast<size_t>(size) + 64, '\0');  // counters grow meanwhile
  const int64_t now = engram_table_stats_text(table.handle, layer, format.c_str(), text.data(), text.size());
  text.resize(std::min(static_cast<size_t>(now), text.size() - 1));
  return text;
}

nb::tuple layer_info(const Table& table, size_t layer) {
  engram_layer_info info{};
  info.size = sizeof info;
  check(engram_table_layer(table.handle, layer, &info));
  return nb::make_tuple(info.layer_id, info.is_hashed == 1, info.num_rows, info.row_dim, info.row_bytes, info.dtype);
}

}  // namespace

// noconvert: what a call fills in is never a copy of the caller's.
NB_MODULE(_engram, module) {
  module.attr("abi_version") = engram_abi_version();
  nb::class_<Hasher>(module, "Hasher")
      .def("num_layers", [](const Hasher& h) { return engram_hasher_num_layers(h.handle); })
      .def("rows_per_token", [](const Hasher& h) { return engram_hasher_rows_per_token(h.handle); })
      .def("max_ngram_size", [](const Hasher& h) { return engram_hasher_max_ngram_size(h.handle); })
      .def("num_rows", [](const Hasher& h, size_t layer) { return engram_hasher_num_rows(h.handle, layer); })
      .def("hash", &hash, nb::arg("layer"), nb::arg("token_ids"), nb::arg("starts"), nb::arg("lookback"),
           nb::arg("out").noconvert())
      .def("canonical_ids", &canonical_ids, nb::arg("token_ids"), nb::arg("out").noconvert());
  module.def("create_hasher", &create_hasher, nb::arg("layer_ids"), nb::arg("max_ngram_size"), nb::arg("n_heads"),
             nb::arg("vocab_size"), nb::arg("seed"), nb::arg("pad_token_id"), nb::arg("tokenizer").none(),
             nb::arg("token_map").none(), nb::arg("compressed_vocab_size"), nb::arg("rule"),
             nb::arg("vocab_size_ratio"));
  nb::class_<Pending>(module, "Pending")
      .def("done", [](const Pending& p) { return p.handle == nullptr || engram_pending_done(p.handle) == 1; })
      .def("wait", &wait);
  nb::class_<Table>(module, "Table")
      .def("num_layers", [](const Table& t) { return engram_table_num_layers(t.handle); })
      .def("layer", &layer_info)
      .def("hasher", &table_hasher, nb::arg("tokenizer").none())
      .def("read", &start_read, nb::arg("layer"), nb::arg("row_ids"), nb::arg("out").noconvert())
      .def("read_step", &read_step, nb::arg("hasher"), nb::arg("token_ids"), nb::arg("lengths"),
           nb::arg("lookback").none(), nb::arg("outs").noconvert())
      .def("prefetch",
           [](const Table& t, size_t layer, Input<int64_t> row_ids) {
             call([&] { return engram_prefetch(t.handle, layer, row_ids.data(), row_ids.size()); });
           })
      .def("decode", &decode, nb::arg("layer"), nb::arg("rows"), nb::arg("dtype"), nb::arg("out").noconvert())
      .def("stats_text", &stats_text);
  module.def("open_table", &open_table);
}
