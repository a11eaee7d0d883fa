/* engram.h: the C ABI of libengram, the table runtime of Engram models. The one header with a stability promise.
 *
 *   hash      token ids to row ids, exactly as the model was trained (DeepSeek-V4.1's rule and the paper's)
 *   table     rows by id from a row file, through a tier: memory, page cache or drive, with caches in front
 *   decode    rows as stored to float or bfloat16
 *
 * Stability. Functions are added, never changed. Structs begin with `size`, set by the caller to sizeof(the struct): a
 * newer library takes an older caller's struct as if the new fields were 0, and fills in only what it has room for.
 *
 * Errors. Functions return ENGRAM_OK or a code; engram_last_error() then says in one line what, where, got, wanted.
 * No C++ exception leaves the library. After an error, outputs are as they were unless the function says otherwise.
 *
 * Threads. Any function may be called from any thread at any time; handles may be shared, except an engram_pending,
 * which one thread uses at a time. A handle is freed once, when nobody uses it any more.
 *
 * Arrays are the caller's, row-major, and copied unless the function says otherwise. Ids count from 0. `layer` is a
 * position in the hasher's or the table's list of layers, not a block id.
 *
 * Examples: examples/. A guide: docs/embedding.md.
 */
#ifndef ENGRAM_ENGRAM_H_
#define ENGRAM_ENGRAM_H_

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define ENGRAM_API
#else
#define ENGRAM_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define ENGRAM_ABI_VERSION 1

typedef enum engram_status {
  ENGRAM_OK = 0,
  ENGRAM_CANCELLED = 1,
  ENGRAM_INVALID_ARGUMENT = 2,
  ENGRAM_NOT_FOUND = 3,
  ENGRAM_ALREADY_EXISTS = 4,
  ENGRAM_PERMISSION_DENIED = 5,
  ENGRAM_RESOURCE_EXHAUSTED = 6, /* memory, descriptors, disk */
  ENGRAM_FAILED_PRECONDITION = 7,
  ENGRAM_OUT_OF_RANGE = 8,
  ENGRAM_UNIMPLEMENTED = 9,
  ENGRAM_INTERNAL = 10,
  ENGRAM_UNAVAILABLE = 11, /* the same call may be tried again */
  ENGRAM_DATA_LOSS = 12    /* a damaged or inconsistent file; the message names it */
} engram_status;

/* Of this thread's last call that failed; "" before any. Valid until this thread's next call that fails. */
ENGRAM_API const char* engram_last_error(void);
ENGRAM_API const char* engram_status_name(engram_status status); /* "kNotFound" */
ENGRAM_API int32_t engram_abi_version(void);                     /* of the library: ENGRAM_ABI_VERSION */
/* Functions below that give a number give -1 for a NULL handle. */

/* ---- Hash ---- */

typedef struct engram_hasher engram_hasher;

typedef struct engram_hash_config {
  size_t size;
  const int32_t* layer_ids; /* [num_layers] block ids that carry a table, in the order of the configuration */
  size_t num_layers;
  int32_t max_ngram_size;    /* N: orders 2 .. N */
  int32_t n_heads;           /* hash heads per order */
  const int64_t* vocab_size; /* [N - 1] start of the prime search for each order */
  int64_t seed;
  int32_t pad_token_id; /* raw id that stands before every boundary */
  /* Raw id to canonical id: either the tokenizer.json it follows from, */
  const char* tokenizer;
  /* or the map itself [token_map_size] with its number of canonical ids; both NULL: ids are canonical already. */
  const int32_t* token_map;
  size_t token_map_size;
  int32_t compressed_vocab_size; /* checked against the tokenizer's where it is given and not 0 */
  /* How ids become rows: NULL or "engram" as above. "qwen4exp" and "longcat" hash raw ids: pad_token_id is the eos id,
   * compressed_vocab_size the number of ids, tokenizer and token_map are NULL. Under qwen4exp all of vocab_size are one
   * number and layers count by their position; under longcat vocab_size and seed have no meaning. */
  const char* rule;
  double vocab_size_ratio; /* longcat: rows of a head per id */
} engram_hash_config;

ENGRAM_API engram_status engram_hasher_create(const engram_hash_config* config, engram_hasher** hasher);
ENGRAM_API void engram_hasher_free(engram_hasher* hasher); /* NULL is allowed */

ENGRAM_API int32_t engram_hasher_rows_per_token(const engram_hasher* hasher); /* R, of one layer */
ENGRAM_API int32_t engram_hasher_max_ngram_size(const engram_hasher* hasher); /* N; N - 1 tokens are the look-back */
ENGRAM_API int32_t engram_hasher_num_layers(const engram_hasher* hasher);
ENGRAM_API int64_t engram_hasher_num_rows(const engram_hasher* hasher, size_t layer); /* -1: no such layer */

/* Row ids of one chunk of one sequence.
 *   token_ids [num_tokens]     raw ids; -1 is a masked position
 *   starts    [num_starts]     index of each document's first token in this chunk, ascending; may be NULL with 0
 *   lookback  [num_lookback]   canonical ids of the tokens before the chunk, oldest first, at most N - 1; fewer mean
 *                              that the sequence begins there; may be NULL with 0
 *   row_ids   [num_tokens, R]  out
 * Any split into chunks gives the ids of one call over the whole sequence. */
ENGRAM_API engram_status engram_hash(const engram_hasher* hasher, size_t layer, const int32_t* token_ids,
                                     size_t num_tokens, const int32_t* starts, size_t num_starts,
                                     const int32_t* lookback, size_t num_lookback, int64_t* row_ids);
/* Raw ids to canonical ids, -1 to -1: what look-back is made of. canonical_ids [num_tokens], may be token_ids. */
ENGRAM_API engram_status engram_canonical_ids(const engram_hasher* hasher, const int32_t* token_ids, size_t num_tokens,
                                              int32_t* canonical_ids);

/* ---- Table ---- */

typedef struct engram_table engram_table;
typedef struct engram_pending engram_pending;

/* uri: "dram:FILE", "pagecache:FILE", "nvme:FILE?cache=2GiB&hot=PROFILE", ...; `engram plan` recommends one. */
ENGRAM_API engram_status engram_table_open(const char* uri, engram_table** table);
/* Waits for the reads in flight. Their engram_pending stay valid. NULL is allowed. */
ENGRAM_API void engram_table_close(engram_table* table);

typedef struct engram_layer_info {
  size_t size;
  int32_t layer_id;  /* block id */
  int32_t is_hashed; /* 1: the file says how token ids become row ids */
  int64_t num_rows;
  int64_t row_dim;   /* columns of a decoded row */
  int64_t row_bytes; /* as stored, and as engram_read() gives it */
  const char* dtype; /* "fp8", "bf16", ...; static */
} engram_layer_info;

ENGRAM_API int32_t engram_table_num_layers(const engram_table* table);
ENGRAM_API engram_status engram_table_layer(const engram_table* table, size_t layer, engram_layer_info* info);
/* The hasher of the table, one layer of it for each of the table's, in the same order. tokenizer: the tokenizer.json
 * that the token ids come from; NULL where the table was made for ids that are canonical already.
 * ENGRAM_FAILED_PRECONDITION: the table was made for another tokenizer, or does not say. */
ENGRAM_API engram_status engram_table_hasher(const engram_table* table, const char* tokenizer, engram_hasher** hasher);

/* Starts a read. rows [num_rows, row_bytes] is the library's until the read is over. Blocks only while the tier's queue
 * is full. An error here means that nothing was started. */
ENGRAM_API engram_status engram_read(const engram_table* table, size_t layer, const int64_t* row_ids, size_t num_rows,
                                     void* rows, size_t rows_bytes, engram_pending** pending);
/* A step of an engine in one call: from the new tokens of several sequences to the rows of every layer. Each token is
 * hashed once, and one read is started for each layer, in order; the engine waits for a layer's where it needs it.
 *   hasher      of this table: engram_table_hasher()
 *   token_ids   [num_tokens]            raw ids, the sequences' one after the other; -1 is a masked position
 *   lengths     [num_sequences]         how many of them each sequence has, num_tokens together
 *   lookback    [num_sequences, N - 1]  canonical ids of the tokens before them, oldest first, -1 before the sequence's
 *                                       begin; NULL: every sequence begins here
 *   rows        [num_layers]            for each layer [num_tokens, R, row_bytes], as for engram_read()
 *   rows_bytes  [num_layers]
 *   pending     [num_layers]            out
 * After an error nothing is in flight. */
ENGRAM_API engram_status engram_read_step(const engram_table* table, const engram_hasher* hasher,
                                          const int32_t* token_ids, size_t num_tokens, const size_t* lengths,
                                          size_t num_sequences, const int32_t* lookback, void* const* rows,
                                          const size_t* rows_bytes, engram_pending** pending);
ENGRAM_API int32_t engram_pending_done(const engram_pending* pending); /* 1: engram_wait() will not block */
/* Waits for the read, gives its status, and frees `pending`. After an error the rows are unspecified. */
ENGRAM_API engram_status engram_wait(engram_pending* pending);

/* A hint for rows that may be read soon, such as those of draft tokens. Returns at once. */
ENGRAM_API engram_status engram_prefetch(const engram_table* table, size_t layer, const int64_t* row_ids,
                                         size_t num_rows);

/* Rows as read, back to back, to values [num_rows, row_dim]; bfloat16 as its 16 bits, rounded to nearest even. */
ENGRAM_API engram_status engram_decode_float(const engram_table* table, size_t layer, const void* rows, size_t num_rows,
                                             float* values);
ENGRAM_API engram_status engram_decode_bfloat16(const engram_table* table, size_t layer, const void* rows,
                                                size_t num_rows, uint16_t* values);

/* The same with both sizes, which are compared: rows_bytes is rows of row_bytes, values_bytes as many rows of row_dim
 * values. dtype: "float32" or "bfloat16". Prefer this one. */
ENGRAM_API engram_status engram_decode(const engram_table* table, size_t layer, const void* rows, size_t rows_bytes,
                                       const char* dtype, void* values, size_t values_bytes);

/* Since open. Times in microseconds. */
typedef struct engram_stats {
  size_t size;
  uint64_t reads;
  uint64_t failed_reads;
  uint64_t rows;
  uint64_t unique_rows; /* without duplicates inside one read */
  uint64_t memory_rows; /* of rows: served from memory of this process */
  uint64_t drive_pages; /* read from file or drive */
  uint64_t drive_bytes;
  uint64_t retries;
  double stall_us_mean, stall_us_p50, stall_us_p99, stall_us_max; /* callers blocked in a wait */
} engram_stats;

ENGRAM_API engram_status engram_table_stats(const engram_table* table, size_t layer, engram_stats* stats);
/* All counters as text ("json" or "prometheus"), cut to `capacity` with a closing 0. Returns the length that the whole
 * text has, without the 0, or -1 (no such layer or format). text may be NULL with capacity 0. "prometheus" takes
 * ENGRAM_ALL_LAYERS too: one text for a scrape, where texts of single layers put together would repeat TYPE lines. */
#define ENGRAM_ALL_LAYERS ((size_t)-1)
ENGRAM_API int64_t engram_table_stats_text(const engram_table* table, size_t layer, const char* format, char* text,
                                           size_t capacity);

#ifdef __cplusplus
}
#endif

#endif /* ENGRAM_ENGRAM_H_ */
