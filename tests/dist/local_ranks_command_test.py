"""`engram bench exchange --ranks N`: a command that starts its ranks itself.

    local_ranks_command_test.py ENGRAM
"""

import json
import os
import signal
import subprocess
import sys
import unittest

ENGRAM = "engram"


def start(*arguments, **variables):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen([ENGRAM, "bench", "exchange", *arguments], env=environment, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, start_new_session=True)


def ranks_of(process):
    """The process ids of its ranks, by rank, once all have been started and are the program."""
    while process.poll() is None:
        ranks = {}
        for child in subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True,
                                    text=True).stdout.split():
            try:
                with open(f"/proc/{child}/environ", "rb") as file:
                    variables = dict(entry.split(b"=", 1) for entry in file.read().split(b"\0") if b"=" in entry)
                if b"RANK" in variables:
                    ranks[int(variables[b"RANK"])] = int(child)
            except OSError:
                pass
        if len(ranks) == 2:
            return ranks
    raise AssertionError(process.communicate())


class Command(unittest.TestCase):
    def test_numbers(self):
        process = start("--ranks", "2", "--rounds", "1", "--rows", "2000", "--json")
        out, err = process.communicate(timeout=120)
        self.assertEqual((0, ""), (process.returncode, err))
        result = json.loads(out)
        self.assertEqual(2, result["ranks"])
        self.assertEqual([16, 4096, 65536, 1048576, 16777216], [message["floats"] for message in result["messages"]])
        for message in result["messages"]:
            self.assertGreater(message["bytes_per_second"], 0)
        for step, row_bytes in zip(result["steps"], (64, 256), strict=True):
            self.assertEqual((2000, row_bytes), (step["rows"], step["row_bytes"]))
            # Each rank asks the other for half of its rows, and sends it the other half.
            self.assertAlmostEqual(8 + 1000 * (8 + 2 * row_bytes), step["bytes_sent"], delta=256 * (8 + 2 * row_bytes))

    def test_one_rank_has_no_sockets(self):
        process = start("--ranks", "1", "--rounds", "1", "--rows", "100", "--json")
        out, err = process.communicate(timeout=120)
        self.assertEqual((0, ""), (process.returncode, err))
        self.assertEqual(0, json.loads(out)["steps"][0]["bytes_sent"])

    def test_a_rank_that_is_killed(self):
        process = start("--ranks", "2", "--rounds", "1000")
        os.kill(ranks_of(process)[1], signal.SIGKILL)
        out, err = process.communicate(timeout=120)
        self.assertEqual(128 + 9, process.returncode, err)
        self.assertEqual("", out)
        self.assertRegex(err, r"^\[rank 1\] ended by signal 9\n(error: rank 1 has gone \(connection closed\)\n)?$")

    def test_sigterm_ends_all(self):
        process = start("--ranks", "2", "--rounds", "1000")
        ranks = ranks_of(process)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(128 + 15, process.wait(timeout=120))
        process.communicate()
        for pid in ranks.values():
            self.assertFalse(os.path.exists(f"/proc/{pid}"))

    def test_half_a_launcher(self):
        process = start(RANK="1")
        out, err = process.communicate(timeout=120)
        self.assertEqual(1, process.returncode)
        self.assertEqual("error: WORLD_SIZE is not set, wanted a number from 1 to 65536\n", err)


if __name__ == "__main__":
    ENGRAM = sys.argv.pop(1)
    unittest.main(verbosity=2)
