"""The Python module (an installed wheel) over tables in tests/parity, against numbers that others computed.

    python python_test.py     with an interpreter that has the wheel; scripts/wheel.sh does that
"""

import hashlib
import json
import threading
import unittest
from pathlib import Path

import engram
import numpy as np

TABLES = Path(__file__).resolve().parents[1] / "parity/tables"
EXPECTED = json.loads((TABLES / "expected.json").read_text())
ROWS = TABLES.parent / "table.rows"  # deepseek_v41, converted by `engram table convert`
TOKENIZER = str(TABLES / "deepseek_v41/tokenizer.json")


class HasherTest(unittest.TestCase):
    def test_published_vectors(self):
        hasher = engram.Hasher([1, 14], 4, 8, [16000000] * 3, compressed_vocab_size=99092)
        self.assertEqual((2, 24, 384006168), (hasher.num_layers, hasher.rows_per_token, hasher.num_rows(0)))
        ids = [0, 3, 99091, 1234, 50000, 7, 42, 65535]
        rows = hasher.hash(ids)
        self.assertEqual((8, 24), rows.shape)
        self.assertEqual(np.int64, rows.dtype)
        self.assertEqual([5702652, 380066193, 3007800, 368603595], [rows[0, 0], rows[0, 23], rows[7, 0], rows[7, 23]])
        np.testing.assert_array_equal(rows[7:], hasher.hash(ids[7:], lookback=hasher.canonical_ids(ids[4:7])))
        np.testing.assert_array_equal(hasher.hash(ids[5:]), hasher.hash(ids, starts=[0, 5])[5:])
        self.assertEqual((0, 24), hasher.hash([]).shape)

    def test_vectors_of_the_other_dialects(self):
        path = Path(__file__).resolve().parents[1] / "golden/dialect_vectors.json"
        for case in json.loads(path.read_text()):
            if case["rule"] == "qwen4exp":
                hasher = engram.Hasher.qwen4exp(case["vocab_size"], case["ngram_vocab_size_base"], case["ngram_size"],
                                                case["heads_per_ngram"], case["ple_layers"], seed=case["seed"],
                                                eos_token_id=case["eos_token_id"])
            else:
                hasher = engram.Hasher.longcat(case["vocab_size"], case["vocab_size_ratio"], case["neighbor_num"],
                                               case["split_num"], eos_token_id=case["eos_token_id"])
            for sequence in case["sequences"]:
                for layer, rows in enumerate(sequence["row_ids"]):
                    np.testing.assert_array_equal(rows, hasher.hash(sequence["token_ids"], layer=layer))
        with self.assertRaisesRegex(ValueError, "eos_token_id"):
            engram.Hasher.longcat(100, 2, 3, 2, eos_token_id=100)

    def test_errors(self):
        hasher = engram.Hasher([1], 2, 1, [11], compressed_vocab_size=10)
        with self.assertRaisesRegex(ValueError, "10"):
            hasher.hash([10])
        with self.assertRaises(TypeError):
            hasher.hash([0.5])
        with self.assertRaises(ValueError):
            hasher.hash([2**40])
        with self.assertRaises(ValueError):
            engram.Hasher([1], 3, 1, [11], compressed_vocab_size=10)
        with self.assertRaises(FileNotFoundError):
            engram.Hasher([1], 2, 1, [11], tokenizer="/nonexistent")


class TableTest(unittest.TestCase):
    def test_every_row_equals_the_oracles(self):
        for tier in ("dram", "mapped", "pagecache", "nvme"):
            table = engram.Table(f"{tier}:{ROWS}")
            for index, layer in enumerate(table.layers):
                facts = EXPECTED["sources"]["deepseek_v41"][str(layer.layer_id)]
                self.assertEqual((facts["rows"], 256, 264, "fp8", True),
                                 (layer.num_rows, layer.row_dim, layer.row_bytes, layer.dtype, layer.is_hashed))
                values = table.lookup(np.arange(layer.num_rows), layer=index)
                self.assertEqual(facts["sha256"], hashlib.sha256(values.tobytes()).hexdigest())
                bits = table.lookup(np.arange(layer.num_rows), layer=index, dtype="bfloat16").astype(np.uint32) << 16
                np.testing.assert_array_equal(values, bits.view(np.float32))

    def test_shapes_and_hash(self):
        table = engram.Table(f"nvme:{ROWS}?cache=1MiB")
        hasher = table.hasher(TOKENIZER)
        row_ids = hasher.hash([70, 71, 5, 100], layer=1)
        self.assertEqual((4, 4, 256), table.lookup(row_ids, layer=1).shape)
        table.prefetch(row_ids, layer=1)
        pending = table.read(row_ids[0], layer=1)
        self.assertEqual((4, 264), pending.wait().shape)
        self.assertTrue(pending.done())
        with self.assertRaises(ValueError):
            pending.wait()
        self.assertEqual((0, 256), table.lookup([]).shape)
        self.assertGreaterEqual(table.stats(1)["reads"], 2)

    def test_the_three_lines_of_the_guide(self):
        guide = (Path(__file__).resolve().parents[2] / "docs/embedding.md").read_text()
        lines = guide.split("```python\n")[1].split("```")[0]
        self.assertEqual(3, lines.count("\n"))
        found = {"token_ids": [70, 71, 5, 100]}
        exec(lines.replace("table.rows?", f"{ROWS}?").replace("tokenizer.json", TOKENIZER), found)
        self.assertEqual((4, 4, 256), found["rows"].shape)

    def test_a_step_equals_its_parts(self):
        table = engram.Table(f"nvme:{ROWS}")
        hasher = table.hasher(TOKENIZER)
        self.assertEqual(3, hasher.max_ngram_size)
        before = hasher.canonical_ids([[70, 71], [5, 100]])
        step = table.read_step(hasher, [5, 100, 9], [2, 1], before)
        for layer, pending in enumerate(step):
            rows = [hasher.hash([5, 100], layer, lookback=before[0]), hasher.hash([9], layer, lookback=before[1])]
            np.testing.assert_array_equal(table.read(np.concatenate(rows), layer).wait(), pending.wait())
        with self.assertRaisesRegex(ValueError, "lookback"):
            table.read_step(hasher, [5, 100, 9], [2, 1], [1])

    def test_memory_of_the_caller(self):
        table = engram.Table(f"nvme:{ROWS}")
        wanted = table.lookup([3, 1])
        out = np.empty((2, 256), np.float32)
        self.assertIs(out, table.lookup([3, 1], out=out))
        np.testing.assert_array_equal(wanted, out)
        taken = np.from_dlpack(wanted)
        self.assertEqual(wanted.ctypes.data, taken.ctypes.data)
        for bad in (np.empty((2, 255), np.float32), np.empty((4, 256), np.float32)[::2], np.empty((2, 256), np.int32),
                    np.frombuffer(bytes(2048), np.float32)):
            with self.assertRaises((TypeError, ValueError)):
                table.lookup([3, 1], out=bad)

    def test_errors(self):
        table = engram.Table(f"dram:{ROWS}")
        with self.assertRaises(IndexError):
            table.lookup([60])
        with self.assertRaises(ValueError):
            table.lookup([0], layer=2)
        with self.assertRaises(ValueError):
            table.lookup([0], dtype="float64")
        with self.assertRaises(ValueError):
            table.hasher()
        with self.assertRaises(FileNotFoundError):
            engram.Table("dram:/nonexistent")
        with self.assertRaises(ValueError):
            engram.Table("tape:x")

    def test_many_threads(self):
        table = engram.Table(f"nvme:{ROWS}?cache=1MiB")
        wanted = table.lookup(np.arange(60))
        failures = []

        def work(seed):
            random = np.random.default_rng(seed)
            for _ in range(50):
                ids = random.integers(0, 60, size=(3, 5))
                if not np.array_equal(wanted[ids], table.lookup(ids)):
                    failures.append(ids)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual([], failures)

    def test_a_pending_outlives_its_table(self):
        pending = engram.Table(f"nvme:{ROWS}").read(np.arange(60))
        self.assertEqual((60, 264), pending.wait().shape)


if __name__ == "__main__":
    unittest.main()
