/* How a C program uses libengram: opens a table, hashes token ids as they come, prefetches, reads and decodes rows.
 *
 *   lookup URI TOKENIZER|- LOOKBACK ID...
 *
 * URI as in engram.h; "-" for a table of canonical ids; LOOKBACK: how many of the ids stand before the chunk. For every
 * layer it prints the row ids of each token of the chunk and the first column of each row.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engram/engram.h"

static void check(engram_status status) {
  if (status == ENGRAM_OK) return;
  fprintf(stderr, "error: %s (%s)\n", engram_last_error(), engram_status_name(status));
  exit(1);
}

static void* allocate(size_t count, size_t size) {
  void* memory = calloc(count ? count : 1, size);
  if (memory == NULL) {
    fprintf(stderr, "error: out of memory\n");
    exit(1);
  }
  return memory;
}

static void print_layer(const engram_table* table, const engram_hasher* hasher, size_t layer, const int32_t* ids,
                        size_t num_ids, size_t num_lookback) {
  engram_layer_info info = {.size = sizeof info};
  check(engram_table_layer(table, layer, &info));

  /* Look-back is canonical ids: a sequence keeps the last N - 1 of them between its chunks. */
  int32_t* lookback = allocate(num_lookback, sizeof *lookback);
  check(engram_canonical_ids(hasher, ids, num_lookback, lookback));
  const size_t num_tokens = num_ids - num_lookback;
  const size_t num_rows = num_tokens * (size_t)engram_hasher_rows_per_token(hasher);
  int64_t* row_ids = allocate(num_rows, sizeof *row_ids);
  check(engram_hash(hasher, layer, ids + num_lookback, num_tokens, NULL, 0, lookback, num_lookback, row_ids));

  /* The hint is of use when something else is done before the read. */
  check(engram_prefetch(table, layer, row_ids, num_rows));
  const size_t bytes = num_rows * (size_t)info.row_bytes;
  void* rows = allocate(bytes, 1);
  engram_pending* pending = NULL;
  check(engram_read(table, layer, row_ids, num_rows, rows, bytes, &pending));
  check(engram_wait(pending));

  float* values = allocate(num_rows * (size_t)info.row_dim, sizeof *values);
  check(engram_decode_float(table, layer, rows, num_rows, values));
  printf("layer %d: %lld rows of %lld columns (%s)\n", (int)info.layer_id, (long long)info.num_rows,
         (long long)info.row_dim, info.dtype);
  for (size_t i = 0; i < num_rows; ++i)
    printf("row %lld %.17g\n", (long long)row_ids[i], (double)values[i * (size_t)info.row_dim]);
  free(values);
  free(rows);
  free(row_ids);
  free(lookback);
}

int main(int argc, char** argv) {
  if (argc < 4) {
    fprintf(stderr, "usage: lookup URI TOKENIZER|- LOOKBACK ID...\n");
    return 2;
  }
  engram_table* table = NULL;
  engram_hasher* hasher = NULL;
  check(engram_table_open(argv[1], &table));
  check(engram_table_hasher(table, strcmp(argv[2], "-") == 0 ? NULL : argv[2], &hasher));

  const size_t num_ids = (size_t)(argc - 4), num_lookback = (size_t)atoi(argv[3]);
  int32_t* ids = allocate(num_ids, sizeof *ids);
  for (size_t i = 0; i < num_ids; ++i) ids[i] = atoi(argv[4 + i]);
  if (num_lookback > num_ids) {
    fprintf(stderr, "error: %zu ids of look-back, %zu given\n", num_lookback, num_ids);
    return 1;
  }
  for (int32_t layer = 0; layer < engram_table_num_layers(table); ++layer)
    print_layer(table, hasher, (size_t)layer, ids, num_ids, num_lookback);

  engram_stats stats = {.size = sizeof stats};
  check(engram_table_stats(table, 0, &stats));
  printf("%llu rows read in %llu calls\n", (unsigned long long)stats.rows, (unsigned long long)stats.reads);
  free(ids);
  engram_hasher_free(hasher);
  engram_table_close(table);
  return 0;
}
