// An engine's decode loop over libengram: a step's rows are read while its first blocks compute.
//
//   decode_loop URI TOKENIZER|- VOCABULARY SEQUENCES STEPS [one-by-one]
//
// URI as in engram.h; "-" for a table of canonical or raw ids; VOCABULARY: how many token ids there are. The model is a
// stand-in: blocks of arithmetic, the table's rows added where the table says, a token made of the result. It prints a
// line of tokens for each sequence, and on stderr how long a step took and how long it waited for rows.
// With "one-by-one" every row is asked for by the sequence and the block that need it, and waited for at once: the same
// tokens, the plain way.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "engram/engram.h"

namespace {

void check(engram_status status) {
  if (status == ENGRAM_OK) return;
  std::fprintf(stderr, "error: %s (%s)\n", engram_last_error(), engram_status_name(status));
  std::exit(1);
}

double now_us() {
  using std::chrono::steady_clock;
  return std::chrono::duration<double, std::micro>(steady_clock::now().time_since_epoch()).count();
}

// The table, its hasher, and for each of its layers the memory that its rows of one step come to.
struct Memory {
  struct Layer {
    engram_layer_info info{};
    std::vector<unsigned char> rows;  // [sequences, R, row_bytes]; an engine on a GPU takes pinned memory
    std::vector<float> values;        // [R, row_dim] of one sequence
  };

  Memory(const char* uri, const char* tokenizer, size_t num_sequences) {
    check(engram_table_open(uri, &table));
    check(engram_table_hasher(table, tokenizer, &hasher));
    rows_per_token = static_cast<size_t>(engram_hasher_rows_per_token(hasher));
    num_lookback = static_cast<size_t>(engram_hasher_max_ngram_size(hasher) - 1);
    layers.resize(static_cast<size_t>(engram_table_num_layers(table)));
    for (size_t i = 0; i < layers.size(); ++i) {
      layers[i].info.size = sizeof layers[i].info;
      check(engram_table_layer(table, i, &layers[i].info));
      layers[i].rows.resize(num_sequences * rows_per_token * static_cast<size_t>(layers[i].info.row_bytes));
      layers[i].values.resize(rows_per_token * static_cast<size_t>(layers[i].info.row_dim));
    }
  }
  ~Memory() {
    engram_hasher_free(hasher);
    engram_table_close(table);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  engram_table* table = nullptr;
  engram_hasher* hasher = nullptr;
  size_t rows_per_token = 0, num_lookback = 0;
  std::vector<Layer> layers;
};

constexpr size_t kWidth = 256;

// What an engine keeps of its sequences between steps.
struct Batch {
  Batch(size_t count, size_t lookback_size)
      : tokens(count),
        lengths(count, 1),
        lookback(count * lookback_size, -1),
        hidden(count, std::vector<float>(kWidth)) {
    for (size_t i = 0; i < count; ++i) tokens[i] = static_cast<int32_t>(i);  // the prompts
  }
  size_t size() const { return tokens.size(); }
  std::vector<int32_t> tokens;    // [sequences] the newest of each
  std::vector<size_t> lengths;    // [sequences] how many are new
  std::vector<int32_t> lookback;  // [sequences, N - 1] canonical ids before them, -1: the sequence begins later
  std::vector<std::vector<float>> hidden;
};

// In the place of attention and feed-forward.
void compute(Batch& batch) {
  for (auto& hidden : batch.hidden)
    for (size_t i = 0; i < kWidth; ++i) hidden[i] = std::sin(hidden[i] * 1.25F + 0.5F * hidden[(i * 7 + 1) % kWidth]);
}

void add_rows(const Memory& memory, Memory::Layer& layer, size_t index, const unsigned char* rows,
              std::vector<float>& hidden) {
  check(engram_decode_float(memory.table, index, rows, memory.rows_per_token, layer.values.data()));
  for (size_t i = 0; i < layer.values.size(); ++i) hidden[i % kWidth] += layer.values[i];
}

// The step before the model runs: every row that any block will need is on its way.
std::vector<engram_pending*> start(Memory& memory, const Batch& batch) {
  std::vector<void*> rows;
  std::vector<size_t> bytes;
  for (Memory::Layer& layer : memory.layers) {
    rows.push_back(layer.rows.data());
    bytes.push_back(layer.rows.size());
  }
  std::vector<engram_pending*> pending(memory.layers.size());
  check(engram_read_step(memory.table, memory.hasher, batch.tokens.data(), batch.size(), batch.lengths.data(),
                         batch.size(), batch.lookback.data(), rows.data(), bytes.data(), pending.data()));
  return pending;
}

// A layer's rows when it needs them.
double wait_and_add(Memory& memory, size_t index, engram_pending* pending, Batch& batch) {
  const double begin = now_us();
  check(engram_wait(pending));
  const double waited = now_us() - begin;
  Memory::Layer& layer = memory.layers[index];
  const size_t bytes = memory.rows_per_token * static_cast<size_t>(layer.info.row_bytes);
  for (size_t i = 0; i < batch.size(); ++i)
    add_rows(memory, layer, index, layer.rows.data() + i * bytes, batch.hidden[i]);
  return waited;
}

// The same, nothing in advance.
double read_and_add(Memory& memory, size_t index, Batch& batch) {
  double waited = 0;
  Memory::Layer& layer = memory.layers[index];
  std::vector<int64_t> row_ids(memory.rows_per_token);
  const size_t bytes = memory.rows_per_token * static_cast<size_t>(layer.info.row_bytes);
  for (size_t i = 0; i < batch.size(); ++i) {
    const int32_t* before = batch.lookback.data() + i * memory.num_lookback;
    check(engram_hash(memory.hasher, index, &batch.tokens[i], 1, nullptr, 0, before, memory.num_lookback,
                      row_ids.data()));
    const double begin = now_us();
    engram_pending* pending = nullptr;
    check(engram_read(memory.table, index, row_ids.data(), row_ids.size(), layer.rows.data(), bytes, &pending));
    check(engram_wait(pending));
    waited += now_us() - begin;
    add_rows(memory, layer, index, layer.rows.data(), batch.hidden[i]);
  }
  return waited;
}

double run_blocks(Memory& memory, Batch& batch, bool one_by_one) {
  double waited = 0;
  std::vector<engram_pending*> pending;
  if (!one_by_one) pending = start(memory, batch);
  for (size_t i = 0; i < batch.size(); ++i)  // in the place of the token embedding
    for (size_t column = 0; column < kWidth; ++column)
      batch.hidden[i][column] +=
          static_cast<float>((static_cast<size_t>(batch.tokens[i]) + 1) * (column + 3) % 97) / 97.0F;
  int32_t num_blocks = 2;
  for (const Memory::Layer& layer : memory.layers) num_blocks = std::max(num_blocks, layer.info.layer_id + 2);
  for (int32_t block = 0; block < num_blocks; ++block) {
    for (size_t index = 0; index < memory.layers.size(); ++index) {
      if (memory.layers[index].info.layer_id != block) continue;
      waited += one_by_one ? read_and_add(memory, index, batch) : wait_and_add(memory, index, pending[index], batch);
    }
    compute(batch);
  }
  return waited;
}

// The newest tokens go into the look-back, the next ones come out of the model.
void advance(const Memory& memory, int32_t vocabulary, Batch& batch) {
  std::vector<int32_t> canonical(batch.size());
  check(engram_canonical_ids(memory.hasher, batch.tokens.data(), batch.size(), canonical.data()));
  for (size_t i = 0; i < batch.size(); ++i) {
    const auto first = batch.lookback.begin() + static_cast<std::ptrdiff_t>(i * memory.num_lookback);
    const auto last = first + static_cast<std::ptrdiff_t>(memory.num_lookback);
    std::rotate(first, first + 1, last);
    *(last - 1) = canonical[i];
    uint32_t bits = 0;
    std::memcpy(&bits, &batch.hidden[i][0], sizeof bits);
    batch.tokens[i] = static_cast<int32_t>((bits >> 4) % static_cast<uint32_t>(vocabulary));
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 6) {
    std::fprintf(stderr, "usage: decode_loop URI TOKENIZER|- VOCABULARY SEQUENCES STEPS [one-by-one]\n");
    return 2;
  }
  const int vocabulary = std::atoi(argv[3]), sequences = std::atoi(argv[4]), steps = std::atoi(argv[5]);
  const bool one_by_one = argc > 6 && std::strcmp(argv[6], "one-by-one") == 0;
  if (sequences < 1 || vocabulary < sequences || steps < 1) {
    std::fprintf(stderr, "error: wanted at least one sequence and step, and an id for each sequence\n");
    return 2;
  }
  Memory memory(argv[1], std::strcmp(argv[2], "-") == 0 ? nullptr : argv[2], static_cast<size_t>(sequences));
  Batch batch(static_cast<size_t>(sequences), memory.num_lookback);
  std::vector<std::string> texts(batch.size());
  double waited = 0;
  const double begin = now_us();
  for (int step = 0; step < steps; ++step) {
    waited += run_blocks(memory, batch, one_by_one);
    advance(memory, vocabulary, batch);
    for (size_t i = 0; i < batch.size(); ++i) texts[i].append(1, ' ').append(std::to_string(batch.tokens[i]));
  }
  const double total = now_us() - begin;
  for (size_t i = 0; i < texts.size(); ++i) std::printf("sequence %zu:%s\n", i, texts[i].c_str());
  std::fprintf(stderr, "%.1f us a step, %.1f us of them waiting for rows\n", total / steps, waited / steps);
  return 0;
}
