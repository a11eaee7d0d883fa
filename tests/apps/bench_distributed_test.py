"""`engram bench distributed` on the demo's Engram with invented text: every number is there, and they fit together. No
times.

    bench_distributed_test.py PROGRAM SOURCE_DIR
"""

import json
import subprocess
import sys
import unittest
from pathlib import Path

PROGRAM, SOURCE = "", Path()


class BenchDistributed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        done = subprocess.run([PROGRAM, "bench", "distributed", "--rounds", "1", "--steps", "2", "--cell", "engram",
                               "--cell", "experts", "--recipes", str(SOURCE / "recipes"), "--text", "nowhere",
                               "--peer", "--python", "/nowhere", "--json"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        cls.result = json.loads(done.stdout)
        cls.cell = cls.result["cells"][0]

    def test_what_was_measured(self):
        cell = self.cell
        self.assertEqual("synthetic", self.result["text"])
        self.assertIn("scripts/setup.sh --oracles", self.result["peer_missing"])
        self.assertEqual(2 * 4 * 256, cell["tokens_per_step"])
        for name in ("alone", "side_by_side", "ranks", "efficiency", "speed_up"):
            self.assertGreater(cell[name]["median"], 0)
        self.assertAlmostEqual(cell["efficiency"]["median"], cell["ranks"]["median"] / cell["side_by_side"]["median"])
        self.assertLess(sum(cell["waited_share"].values()), 1)
        # Of both layers: how many, which, the rows, their gradients. One bucket of gradients, two groups of weights that
        # return. Totals.
        self.assertEqual({"control": 1, "dense": 3, "table": 4}, cell["exchanges_per_step"])
        rows = cell["rows"]
        self.assertEqual(2 * 4 * 256 * 2 * 8, rows["looked_up"])
        self.assertLess(rows["distinct"], rows["asked"])
        self.assertLess(rows["asked"], rows["looked_up"])
        # To the other rank: of half of its rows the ids and gradients, and as many rows that it asked for.
        self.assertAlmostEqual(1, cell["bytes_per_step"]["table"] / (rows["asked"] / 2 / 2 * (8 + 2 * 32)), delta=0.1)
        self.assertAlmostEqual(1, cell["bytes_per_step"]["dense"] / (4 * cell["dense_parameters"]), delta=0.1)

    def test_experts_shared_out(self):
        cell = self.result["cells"][1]
        self.assertEqual("experts", cell["name"])
        # The experts' weights stay, and the tokens travel.
        self.assertLess(cell["dense_parameters"], self.cell["dense_parameters"])
        self.assertGreater(cell["bytes_per_step"]["expert"], 0)
        self.assertAlmostEqual(1, cell["bytes_per_step"]["dense"] / (4 * cell["dense_parameters"]), delta=0.2)
        self.assertGreater(cell["larger_worlds"][0]["parts"]["bytes of tokens"], 0)

    def test_larger_worlds(self):
        worlds = {(world["ranks"], world["link"]): world for world in self.cell["larger_worlds"]}
        self.assertEqual({(2, "here"), *((ranks, link) for ranks in (8, 64) for link in ("here", "25 Gb/s", "400 Gb/s"))},
                         set(worlds))
        small, large = worlds[2, "here"], worlds[64, "25 Gb/s"]
        self.assertEqual(4 + 3 + 1, small["messages"])
        self.assertAlmostEqual(sum(self.cell["bytes_per_step"].values()), small["bytes"])
        self.assertEqual((4 + 3 + 1) * 63, large["messages"])
        compute = self.cell["tokens_per_step"] / self.cell["side_by_side"]["median"]
        for world in worlds.values():
            self.assertAlmostEqual(compute + sum(world["parts"].values()), world["seconds"])
            self.assertEqual(max(world["parts"], key=world["parts"].get), world["largest_part"])
        self.assertGreater(large["sum_buffer_bytes"], small["sum_buffer_bytes"])


if __name__ == "__main__":
    PROGRAM, SOURCE = sys.argv[1], Path(sys.argv[2])
    del sys.argv[1:3]
    unittest.main(verbosity=2)
