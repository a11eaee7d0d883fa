"""Rows through Mooncake's EngramStore (PyPI mooncake-transfer-engine): what `engram bench store` compares DramStore with.

A job comes as JSON on stdin: heads, rows per head, row width (float32), tokens per lookup, seconds. Starts a master of
its own on the loopback interface, one segment in this process's memory. Prints one JSON object: tokens per second.
"""

import ctypes
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

import numpy as np


def load_cuda_names():
    """The extension names CUDA libraries that a lookup in memory never calls; without a driver an empty one will do."""
    for folder in map(pathlib.Path, sys.path):
        for library in folder.glob("nvidia/cuda_runtime/lib/libcudart.so.12"):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    try:
        ctypes.CDLL("libcuda.so.1", mode=ctypes.RTLD_GLOBAL)
    except OSError:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "libcuda.so.1")
            command = ["cc", "-shared", "-x", "c", "-", "-o", path, "-Wl,-soname,libcuda.so.1"]
            subprocess.run(command, input=b"", check=True)
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    sys.setdlopenflags(os.RTLD_LAZY)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main():
    job = json.load(sys.stdin)
    load_cuda_names()
    sys.stderr = os.fdopen(os.dup(2), "w")  # errors of this script are shown, the library's notes are not
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    from mooncake import store as mooncake

    heads, rows, width = job["heads"], job["rows"], job["width"]
    address = f"127.0.0.1:{free_port()}"
    master = subprocess.Popen(
        [os.path.join(os.path.dirname(mooncake.__file__), "mooncake_master"), f"--rpc_port={address.split(':')[1]}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(2)
        store = mooncake.MooncakeDistributedStore()
        segment = 2 * heads * rows * width * 4
        if store.setup("127.0.0.1", "P2PHANDSHAKE", segment, 256 << 20, "tcp", "", address) != 0:
            raise RuntimeError("mooncake: setup failed")
        config = mooncake.EngramStoreConfig()
        config.table_vocab_sizes = [rows] * heads
        config.embedding_dim = width
        table = mooncake.EngramStore(1, config, store)
        random = np.random.default_rng(0)
        tables = [random.random((rows, width), dtype=np.float32) for _ in range(heads)]
        table.populate(tables)
        lookups = [random.integers(0, rows, (1, job["chunk_tokens"], heads)) for _ in range(16)]
        got = table.lookup(lookups[0])
        if not all(np.array_equal(got[0, :, h], tables[h][lookups[0][0, :, h]]) for h in range(heads)):
            raise RuntimeError("mooncake: wrong rows")
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < job["seconds"]:
            table.lookup(lookups[done % len(lookups)])
            done += 1
        rate = done * job["chunk_tokens"] / (time.perf_counter() - start)
        print(json.dumps({"tokens_per_second": rate}), flush=True)
    finally:
        master.kill()
    os._exit(0)  # its client would wait for the master


if __name__ == "__main__":
    main()
