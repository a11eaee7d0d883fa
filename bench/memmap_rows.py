"""Rows of a row file through np.memmap and fancy indexing: what `engram bench store` compares its tiers with.

A job comes as JSON on stdin: the table, its layers' places, and a file of row ids (little-endian int64, for every chunk
of text and every layer [chunk_tokens * rows_per_token]). Prints one JSON object: tokens per second.
"""

import json
import sys
import time

import numpy as np


def main():
    job = json.load(sys.stdin)
    file = np.memmap(job["table"], dtype=np.uint8, mode="r")
    layers = []
    for table in job["tables"]:
        begin = table["first_page"] * 4096
        pages = file[begin : begin + table["num_pages"] * 4096]
        shape = (table["num_pages"], table["rows_per_page"], table["row_bytes"])
        rows = np.lib.stride_tricks.as_strided(pages, shape, (4096, table["row_bytes"], 1), writeable=False)
        layers.append((rows, table["rows_per_page"]))
    ids = np.fromfile(job["ids"], dtype="<i8")
    ids = ids.reshape(-1, len(layers), job["chunk_tokens"] * job["rows_per_token"])
    done, start = 0, time.perf_counter()
    for chunk in ids:
        for (rows, per_page), row_ids in zip(layers, chunk):
            rows[row_ids // per_page, row_ids % per_page]
        done += job["chunk_tokens"]
        if time.perf_counter() - start > job["seconds"]:
            break
    print(json.dumps({"tokens_per_second": done / (time.perf_counter() - start)}))


if __name__ == "__main__":
    main()
