/* The promises of engram.h, from plain C: argument checks, struct sizes, error text per thread, hashing from a
 * configuration. usage: cabi_test ROW_FILE (two layers, canonical ids, fp8) */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engram/engram.h"

static int failures = 0;

#define EXPECT(condition)                                                     \
  do {                                                                        \
    if (!(condition)) {                                                       \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      ++failures;                                                             \
    }                                                                         \
  } while (0)

/* The code, and that the message has this part. */
static void expect_error(engram_status got, engram_status wanted, const char* part, int line) {
  if (got == wanted && strstr(engram_last_error(), part) != NULL) return;
  fprintf(stderr, "%s:%d: got %s '%s', wanted %s with '%s'\n", __FILE__, line, engram_status_name(got),
          engram_last_error(), engram_status_name(wanted), part);
  ++failures;
}
#define EXPECT_ERROR(call, wanted, part) expect_error(call, wanted, part, __LINE__)

static void test_hasher(void) {
  /* The 3-gram layout of the V4.1 vectors: layers 1 and 14, orders 2 .. 4, 8 heads, primes above 15,999,999. */
  const int32_t layers[] = {1, 14};
  const int64_t sizes[] = {16000000, 16000000, 16000000};
  engram_hash_config config;
  memset(&config, 0, sizeof config);
  config.size = sizeof config;
  config.layer_ids = layers;
  config.num_layers = 2;
  config.max_ngram_size = 4;
  config.n_heads = 8;
  config.vocab_size = sizes;
  config.pad_token_id = 2;
  config.compressed_vocab_size = 99092;
  engram_hasher* hasher = NULL;
  EXPECT(engram_hasher_create(&config, &hasher) == ENGRAM_OK);
  EXPECT(engram_hasher_num_layers(hasher) == 2 && engram_hasher_rows_per_token(hasher) == 24);
  EXPECT(engram_hasher_num_rows(hasher, 0) == 384006168 && engram_hasher_num_rows(hasher, 1) == 384016682);
  EXPECT(engram_hasher_num_rows(hasher, 2) == -1);

  const int32_t ids[] = {0, 3, 99091, 1234, 50000, 7, 42, 65535};
  int64_t rows[8 * 24], tail[24];
  EXPECT(engram_hash(hasher, 0, ids, 8, NULL, 0, NULL, 0, rows) == ENGRAM_OK);
  EXPECT(rows[0] == 5702652 && rows[23] == 380066193 && rows[7 * 24] == 3007800 && rows[7 * 24 + 23] == 368603595);
  /* The last token alone, with the three before it as look-back. */
  EXPECT(engram_hash(hasher, 0, ids + 7, 1, NULL, 0, ids + 4, 3, tail) == ENGRAM_OK);
  EXPECT(memcmp(tail, rows + 7 * 24, sizeof tail) == 0);
  EXPECT(engram_hash(hasher, 1, ids, 8, NULL, 0, NULL, 0, rows) == ENGRAM_OK);
  EXPECT(rows[0] == 14361964 && rows[7 * 24 + 23] == 382900078);

  const int32_t outside[] = {99092};
  int32_t canonical[2] = {-1, 5};
  rows[0] = 77;
  EXPECT_ERROR(engram_hash(hasher, 0, outside, 1, NULL, 0, NULL, 0, rows), ENGRAM_INVALID_ARGUMENT, "99092");
  EXPECT(rows[0] == 77);
  EXPECT_ERROR(engram_hash(hasher, 2, ids, 8, NULL, 0, NULL, 0, rows), ENGRAM_INVALID_ARGUMENT, "layer is 2");
  EXPECT_ERROR(engram_hash(hasher, 0, NULL, 8, NULL, 0, NULL, 0, rows), ENGRAM_INVALID_ARGUMENT, "token_ids is NULL");
  EXPECT_ERROR(engram_hash(NULL, 0, ids, 8, NULL, 0, NULL, 0, rows), ENGRAM_INVALID_ARGUMENT, "hasher is NULL");
  EXPECT_ERROR(engram_canonical_ids(hasher, outside, 1, canonical), ENGRAM_INVALID_ARGUMENT, "99092");
  EXPECT(engram_canonical_ids(hasher, canonical, 2, canonical) == ENGRAM_OK && canonical[0] == -1 && canonical[1] == 5);
  engram_hasher_free(hasher);
  engram_hasher_free(NULL);

  hasher = NULL;
  config.n_heads = 0;
  EXPECT_ERROR(engram_hasher_create(&config, &hasher), ENGRAM_INVALID_ARGUMENT, "n_heads");
  config.n_heads = 8;
  config.pad_token_id = 99092;
  EXPECT_ERROR(engram_hasher_create(&config, &hasher), ENGRAM_INVALID_ARGUMENT, "pad_token_id");
  config.pad_token_id = 2;
  config.tokenizer = "/nonexistent/tokenizer.json";
  EXPECT_ERROR(engram_hasher_create(&config, &hasher), ENGRAM_NOT_FOUND, "/nonexistent");
  config.size = 3;
  EXPECT_ERROR(engram_hasher_create(&config, &hasher), ENGRAM_INVALID_ARGUMENT, "size is 3");
  /* A caller from before `pad_token_id` and what follows: those fields are 0. */
  config.size = offsetof(engram_hash_config, pad_token_id);
  EXPECT_ERROR(engram_hasher_create(&config, &hasher), ENGRAM_INVALID_ARGUMENT, "compressed_vocab_size is 0");
  EXPECT(hasher == NULL);
}

/* Two rows of tests/golden/dialect_vectors.json; a sequence in two calls, cut where an eos (2) is in the look-back. */
static void test_dialects(void) {
  const int32_t layers[] = {0, 1};
  const int64_t sizes[] = {50, 50, 50};
  const int32_t first[] = {931}, ids[] = {5, 6, 2, 7, 8, 9};
  int64_t rows[6 * 6], tail[2 * 6];
  engram_hash_config config;
  memset(&config, 0, sizeof config);
  config.size = sizeof config;
  config.layer_ids = layers;
  config.num_layers = 2;
  config.max_ngram_size = 4;
  config.n_heads = 2;
  config.vocab_size = sizes;
  config.pad_token_id = 2;
  config.compressed_vocab_size = 997;
  config.vocab_size_ratio = 5;
  for (int is_longcat = 0; is_longcat < 2; ++is_longcat) {
    engram_hasher* hasher = NULL;
    config.rule = is_longcat ? "longcat" : "qwen4exp";
    if (is_longcat) config.vocab_size = NULL;
    EXPECT(engram_hasher_create(&config, &hasher) == ENGRAM_OK);
    EXPECT(engram_hash(hasher, is_longcat ? 0 : 1, first, 1, NULL, 0, NULL, 0, rows) == ENGRAM_OK);
    EXPECT(rows[0] == (is_longcat ? 931 : 53) && rows[5] == (is_longcat ? 25881 : 499));
    EXPECT(engram_hash(hasher, 0, ids, 6, NULL, 0, NULL, 0, rows) == ENGRAM_OK);
    EXPECT(engram_hash(hasher, 0, ids + 4, 2, NULL, 0, ids + 1, 3, tail) == ENGRAM_OK);
    EXPECT(memcmp(tail, rows + 4 * 6, sizeof tail) == 0);
    engram_hasher_free(hasher);
  }
  engram_hasher* hasher = NULL;
  config.rule = "bloom";
  EXPECT_ERROR(engram_hasher_create(&config, &hasher), ENGRAM_INVALID_ARGUMENT, "bloom");
  config.rule = "longcat";
  config.pad_token_id = 996;
  config.vocab_size_ratio = 1e300;
  EXPECT_ERROR(engram_hasher_create(&config, &hasher), ENGRAM_INVALID_ARGUMENT, "vocab_size_ratio");
  EXPECT(hasher == NULL);
}

/* One text for all layers: each metric has one TYPE line, and both layers' samples behind it. */
static void test_all_layers(const engram_table* table) {
  static char text[1 << 16];
  const int64_t length = engram_table_stats_text(table, ENGRAM_ALL_LAYERS, "prometheus", text, sizeof text);
  EXPECT(length > 0 && length < (int64_t)sizeof text);
  const char* const type = strstr(text, "# TYPE engram_store_reads_total counter\n");
  EXPECT(type != NULL && strstr(type + 1, "# TYPE engram_store_reads_total counter\n") == NULL);
  EXPECT(strstr(text, "engram_store_reads_total{layer=\"1\"}") != NULL);
  EXPECT(strstr(text, "engram_store_reads_total{layer=\"14\"}") != NULL);
  EXPECT(engram_table_stats_text(table, ENGRAM_ALL_LAYERS, "json", NULL, 0) == -1);
}

static void test_null_handles(void) {
  EXPECT(engram_hasher_rows_per_token(NULL) == -1 && strstr(engram_last_error(), "hasher is NULL") != NULL);
  EXPECT(engram_hasher_num_layers(NULL) == -1 && engram_hasher_num_rows(NULL, 0) == -1);
  EXPECT(engram_table_num_layers(NULL) == -1 && strstr(engram_last_error(), "table is NULL") != NULL);
  EXPECT(engram_pending_done(NULL) == -1 && strstr(engram_last_error(), "pending is NULL") != NULL);
}

static void test_table(const char* uri) {
  engram_table* table = NULL;
  EXPECT(engram_table_open(uri, &table) == ENGRAM_OK);
  if (table == NULL) return;
  EXPECT(engram_table_num_layers(table) == 2);
  engram_layer_info info = {.size = sizeof info};
  EXPECT(engram_table_layer(table, 1, &info) == ENGRAM_OK);
  EXPECT(info.layer_id == 14 && info.is_hashed == 1 && info.row_dim == 256 && info.row_bytes == 264);
  EXPECT(info.size == sizeof info && strcmp(info.dtype, "fp8") == 0);
  /* Room for the first fields only: nothing behind them is touched. */
  engram_layer_info small;
  memset(&small, 0x55, sizeof small);
  small.size = offsetof(engram_layer_info, num_rows);
  EXPECT(engram_table_layer(table, 1, &small) == ENGRAM_OK && small.layer_id == 14);
  EXPECT(small.num_rows == 0x5555555555555555LL);
  EXPECT_ERROR(engram_table_layer(table, 2, &info), ENGRAM_INVALID_ARGUMENT, "wanted 0 .. 1");

  const int64_t ids[] = {5, 0, 5}, beyond[] = {info.num_rows};
  unsigned char rows[3 * 264];
  float values[3 * 256];
  uint16_t halves[3 * 256];
  engram_pending* pending = NULL;
  EXPECT(engram_read(table, 1, ids, 3, rows, sizeof rows, &pending) == ENGRAM_OK);
  EXPECT(engram_wait(pending) == ENGRAM_OK);
  EXPECT(memcmp(rows, rows + 2 * 264, 264) == 0 && memcmp(rows, rows + 264, 264) != 0);
  EXPECT(engram_decode_float(table, 1, rows, 3, values) == ENGRAM_OK);
  EXPECT(engram_decode_bfloat16(table, 1, rows, 3, halves) == ENGRAM_OK);
  for (int i = 0; i < 3 * 256; ++i) {
    uint32_t bits = (uint32_t)halves[i] << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    EXPECT(wide == values[i]); /* an fp8 value has fewer bits than bfloat16 */
  }
  pending = NULL;
  EXPECT_ERROR(engram_read(table, 1, beyond, 1, rows, 264, &pending), ENGRAM_OUT_OF_RANGE, "");
  EXPECT_ERROR(engram_read(table, 1, ids, 3, rows, 264, &pending), ENGRAM_INVALID_ARGUMENT, "");
  EXPECT_ERROR(engram_read(table, 1, ids, 3, NULL, sizeof rows, &pending), ENGRAM_INVALID_ARGUMENT, "rows is NULL");
  EXPECT_ERROR(engram_read(table, 9, ids, 3, rows, sizeof rows, &pending), ENGRAM_INVALID_ARGUMENT, "layer is 9");
  EXPECT(pending == NULL);
  EXPECT_ERROR(engram_wait(NULL), ENGRAM_INVALID_ARGUMENT, "pending is NULL");

  /* With both sizes: the same values, and a size that does not fit is seen. */
  float again[3 * 256];
  uint16_t again_halves[3 * 256];
  EXPECT(engram_decode(table, 1, rows, sizeof rows, "float32", again, sizeof again) == ENGRAM_OK);
  EXPECT(memcmp(again, values, sizeof values) == 0);
  EXPECT(engram_decode(table, 1, rows, sizeof rows, "bfloat16", again_halves, sizeof again_halves) == ENGRAM_OK);
  EXPECT(memcmp(again_halves, halves, sizeof halves) == 0);
  EXPECT_ERROR(engram_decode(table, 1, rows, 263, "float32", again, 1024), ENGRAM_INVALID_ARGUMENT,
               "rows_bytes is 263");
  EXPECT_ERROR(engram_decode(table, 1, rows, sizeof rows, "float32", again, 2048), ENGRAM_INVALID_ARGUMENT, "3 rows");
  EXPECT_ERROR(engram_decode(table, 1, rows, 264, "f64", again, 1024), ENGRAM_INVALID_ARGUMENT, "'f64'");
  EXPECT_ERROR(engram_decode(table, 1, NULL, 264, "float32", again, 1024), ENGRAM_INVALID_ARGUMENT, "rows is NULL");
  EXPECT_ERROR(engram_decode_float(table, 1, rows, (size_t)-1, values), ENGRAM_INVALID_ARGUMENT, "num_rows is");
  EXPECT(engram_prefetch(table, 0, ids, 3) == ENGRAM_OK);

  engram_stats stats = {.size = sizeof stats};
  EXPECT(engram_table_stats(table, 1, &stats) == ENGRAM_OK && stats.reads == 1 && stats.rows == 3);
  EXPECT(stats.unique_rows == 2 || stats.unique_rows == 3); /* memory has no use for de-duplication */
  char text[16];
  const int64_t length = engram_table_stats_text(table, 1, "json", text, sizeof text);
  EXPECT(length > 15 && strlen(text) == 15 && text[0] == '{');
  EXPECT(engram_table_stats_text(table, 1, "json", NULL, 0) == length);
  EXPECT(engram_table_stats_text(table, 1, "prometheus", NULL, 0) > 0);
  EXPECT(engram_table_stats_text(table, 1, "xml", NULL, 0) == -1);
  test_all_layers(table);

  engram_hasher* hasher = NULL;
  EXPECT(engram_table_hasher(table, NULL, &hasher) == ENGRAM_OK);
  EXPECT(engram_hasher_num_rows(hasher, 1) == info.num_rows);
  engram_hasher_free(hasher);
  engram_table_close(table);
  engram_table_close(NULL);
}

/* Two sequences in one call: a prefill of 3 tokens, and 1 token with a look-back of 2 of at most N - 1 ids. */
static void test_step(const char* uri) {
  enum { kTokens = 4, kMaxRows = 24, kBytes = 264 };
  engram_table* table = NULL;
  engram_hasher* hasher = NULL;
  EXPECT(engram_table_open(uri, &table) == ENGRAM_OK && engram_table_hasher(table, NULL, &hasher) == ENGRAM_OK);
  if (hasher == NULL) return;
  const int32_t width = engram_hasher_rows_per_token(hasher), before = engram_hasher_max_ngram_size(hasher) - 1;
  EXPECT(width <= kMaxRows && before == 3);
  const int32_t tokens[kTokens] = {5, 6, 7, 9}, lookback[2 * 3] = {-1, -1, -1, -1, 8, 4};
  const size_t lengths[2] = {3, 1}, bytes = kTokens * (size_t)width * kBytes, sizes[2] = {bytes, bytes};
  static unsigned char rows[2][kTokens * kMaxRows * kBytes], wanted[kTokens * kMaxRows * kBytes];
  void* const buffers[2] = {rows[0], rows[1]};
  engram_pending* pending[2] = {NULL, NULL};
  EXPECT(engram_read_step(table, hasher, tokens, kTokens, lengths, 2, lookback, buffers, sizes, pending) == ENGRAM_OK);
  for (size_t layer = 0; layer < 2; ++layer) {
    int64_t ids[kTokens * kMaxRows];
    engram_pending* plain = NULL;
    EXPECT(engram_hash(hasher, layer, tokens, 3, NULL, 0, NULL, 0, ids) == ENGRAM_OK);
    EXPECT(engram_hash(hasher, layer, tokens + 3, 1, NULL, 0, lookback + 4, 2, ids + 3 * width) == ENGRAM_OK);
    EXPECT(engram_read(table, layer, ids, kTokens * (size_t)width, wanted, bytes, &plain) == ENGRAM_OK);
    EXPECT(engram_wait(plain) == ENGRAM_OK && engram_wait(pending[layer]) == ENGRAM_OK);
    EXPECT(memcmp(rows[layer], wanted, bytes) == 0);
  }
  pending[0] = pending[1] = NULL;
  const size_t long_lengths[2] = {3, 2}, short_lengths[2] = {3, 0}, small[2] = {bytes, bytes - 1};
  const int32_t outside[2 * 3] = {-1, -1, -1, -1, 8, 2000000000};
  EXPECT_ERROR(engram_read_step(table, hasher, tokens, kTokens, long_lengths, 2, NULL, buffers, sizes, pending),
               ENGRAM_INVALID_ARGUMENT, "lengths[1] is 2, wanted at most the 1");
  EXPECT_ERROR(engram_read_step(table, hasher, tokens, kTokens, short_lengths, 2, NULL, buffers, sizes, pending),
               ENGRAM_INVALID_ARGUMENT, "add up to 3, wanted the 4");
  EXPECT_ERROR(engram_read_step(table, hasher, tokens, kTokens, lengths, 2, outside, buffers, sizes, pending),
               ENGRAM_INVALID_ARGUMENT, "sequence 1");
  EXPECT_ERROR(engram_read_step(table, hasher, tokens, kTokens, lengths, 2, NULL, buffers, small, pending),
               ENGRAM_INVALID_ARGUMENT, "layer 1");
  EXPECT_ERROR(engram_read_step(table, NULL, tokens, kTokens, lengths, 2, NULL, buffers, sizes, pending),
               ENGRAM_INVALID_ARGUMENT, "hasher is NULL");
  EXPECT_ERROR(engram_read_step(table, hasher, tokens, kTokens, lengths, 2, NULL, buffers, sizes, NULL),
               ENGRAM_INVALID_ARGUMENT, "pending is NULL");
  EXPECT(pending[0] == NULL && pending[1] == NULL);
  engram_hasher_free(hasher);
  engram_table_close(table);
}

static void* other_thread(void* unused) {
  (void)unused;
  EXPECT(engram_last_error()[0] == '\0');
  EXPECT_ERROR(engram_table_open("tape:x", NULL), ENGRAM_INVALID_ARGUMENT, "");
  return NULL;
}

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  EXPECT(engram_abi_version() == ENGRAM_ABI_VERSION);
  EXPECT(engram_last_error()[0] == '\0');
  EXPECT(strcmp(engram_status_name(ENGRAM_DATA_LOSS), "kDataLoss") == 0);
  EXPECT(strcmp(engram_status_name((engram_status)99), "unknown") == 0);
  test_hasher();
  test_dialects();
  test_null_handles();
  const char* const tiers[] = {"dram:", "pagecache:", "nvme:"};
  for (int i = 0; i < 3; ++i) {
    char uri[4096];
    snprintf(uri, sizeof uri, "%s%s", tiers[i], argv[1]);
    test_table(uri);
    test_step(uri);
  }
  engram_table* table = NULL;
  EXPECT_ERROR(engram_table_open("tape:x", &table), ENGRAM_INVALID_ARGUMENT, "tape");
  EXPECT_ERROR(engram_table_open("dram:/nonexistent", &table), ENGRAM_NOT_FOUND, "/nonexistent");
  char before[256];
  snprintf(before, sizeof before, "%s", engram_last_error());
  pthread_t thread;
  EXPECT(pthread_create(&thread, NULL, other_thread, NULL) == 0);
  EXPECT(pthread_join(thread, NULL) == 0);
  EXPECT(strcmp(before, engram_last_error()) == 0);
  if (failures == 0) printf("ok\n");
  return failures == 0 ? 0 : 1;
}
