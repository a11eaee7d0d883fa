"""The communicator in worlds of 1 to 4 processes: what every verb moves, and what is said when a rank is missing.

    communicator_test.py DIST_RANKS

Every failure must end all ranks, with exit code 1 and one line that names the culprit. The tests mostly wait, so four
run at a time.
"""

import concurrent.futures
import os
import random
import signal
import socket
import subprocess
import sys
import time
import unittest

RANKS = "dist_ranks"
TIMEOUT = 5  # seconds, where a test is about it; elsewhere 30, which a busy machine keeps
PATIENCE = 60  # seconds for a process to end: what hangs, hangs for longer


def free_port():
    """Below the ports that the system gives out by itself."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as listener:
            if listener.connect_ex(("127.0.0.1", port)) != 0:
                return port


def start(scenario, rank, size, port, timeout, **variables):
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith(("OMPI_", "PMI_", "SLURM_", "MASTER_", "RANK", "WORLD_", "LOCAL_", "TORCH"))}
    environment.update(RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
                       OMP_NUM_THREADS="1", **variables)
    return subprocess.Popen([RANKS, scenario, str(timeout)], env=environment, stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class World(unittest.TestCase):
    def setUp(self):
        self.processes = []
        self.addCleanup(self.end_all)

    def end_all(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def start(self, scenario, size, ranks=None, port=None, go=True, timeout=30, **variables):
        port = port or free_port()
        started = [start(scenario, rank, size, port, timeout, **variables)
                   for rank in (range(size) if ranks is None else ranks)]
        self.processes += started
        for process in started:
            self.assertEqual("loaded\n", process.stdout.readline())
        if go:
            self.go(started)
        return started

    def go(self, processes):
        """Ranks meet at once, however long their programs took to load."""
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()

    def listening(self, port):
        answers = False
        while not answers:
            time.sleep(.05)
            with socket.socket() as client:
                answers = client.connect_ex(("127.0.0.1", port)) == 0

    def ready(self, processes):
        for process in processes:
            self.assertEqual("ready\n", process.stdout.readline(), process.poll() is not None and process.stderr.read())

    def wait(self, process):
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err

    def all_ok(self, processes):
        for process in processes:
            code, out, err = self.wait(process)
            self.assertEqual((0, "ok", ""), (code, out.strip().splitlines()[-1] if out else "", err))

    def all_fail(self, processes, *texts, code=1):
        """Each process ends in time with one line that holds one of the texts."""
        for process in processes:
            got, out, err = self.wait(process)
            self.assertEqual(code, got, err)
            self.assertEqual(1, len(err.splitlines()), err)
            named = err.startswith("error: ") and any(text in err for text in texts)
            self.assertTrue(named, f"{err!r}: wanted {texts}")


class Verbs(World):
    def test_all(self):
        for size in (1, 2, 3, 4):
            with self.subTest(size=size):
                self.all_ok(self.start("verbs", size))

    def test_patience_is_longer_than_the_time_out(self):
        self.all_ok(self.start("patience", 2, timeout=TIMEOUT))


class Meeting(World):
    def test_a_missing_rank(self):
        self.all_fail(self.start("verbs", 4, ranks=(0, 2), timeout=TIMEOUT),
                      f"ranks 1 and 3 of 4 have not come within {TIMEOUT} s")

    def test_no_rank_0(self):
        self.all_fail(self.start("verbs", 2, ranks=(1,), timeout=TIMEOUT),
                      f"rank 0 of 2 has not come within {TIMEOUT} s")

    def test_two_rank_0(self):
        port = free_port()
        second = self.start("verbs", 2, ranks=(0,), port=port, go=False)
        first = self.start("verbs", 2, ranks=(0,), port=port, timeout=TIMEOUT)
        self.listening(port)
        self.go(second)
        self.all_fail(second, f"rank 0 of 2 cannot listen at port {port}")
        self.all_fail(first, "rank 1 of 2 has not come")

    def test_two_rank_1(self):
        self.all_fail(self.start("verbs", 3, ranks=(0, 1, 1)), "two processes say that they are rank 1 of 3")

    def test_a_stranger_at_the_port(self):
        port = free_port()
        stranger = subprocess.Popen([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)],
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(stranger.communicate)
        self.addCleanup(stranger.kill)
        self.listening(port)
        self.all_fail(self.start("verbs", 2, ranks=(1,), port=port, timeout=TIMEOUT), f"127.0.0.1:{port}")
        self.all_fail(self.start("verbs", 2, ranks=(0,), port=port), f"cannot listen at port {port}")

    def test_other_worlds(self):
        port = free_port()
        processes = (self.start("verbs", 2, ranks=(0,), port=port, go=False)
                     + self.start("verbs", 3, ranks=(1, 2), port=port, go=False))
        self.go(processes)
        texts = ("number of ranks: 3 at rank 1, 2 at rank 0", "number of ranks: 3 at rank 2, 2 at rank 0")
        self.all_fail(processes[:2], *texts)
        # Rank 0 waits for one other to read why it ends; the third may come when it is gone.
        self.all_fail(processes[2:], *texts, "rank 0 of 3 has not come", "rank 0's store")

    def test_another_recipe(self):
        port = free_port()
        processes = (self.start("verbs", 3, ranks=(0, 2), port=port, go=False)
                     + self.start("verbs", 3, ranks=(1,), port=port, go=False, HELLO_RECIPE="another\n"))
        self.go(processes)
        self.all_fail(processes, r"rank 1 and rank 0 differ: recipe: 'another\x0a' at rank 1, 'a recipe' at rank 0")


class Failures(World):
    def lose(self, cases, lose, text, **options):
        """Worlds of (size, rank that is lost), all at once."""
        worlds = [(self.start("loop", size, go=False, **options), lost) for size, lost in cases]
        for processes, _ in worlds:
            self.go(processes)
            self.ready(processes)
        for processes, lost in worlds:
            lose(processes[lost])
        for processes, lost in worlds:
            with self.subTest(size=len(processes), lost=lost):
                self.all_fail(processes[:lost] + processes[lost + 1:], f"rank {lost} {text}")

    def test_kill(self):
        self.lose(((2, 1), (2, 0), (3, 1), (4, 0)), subprocess.Popen.kill, "has gone (connection closed)")

    def test_stop(self):
        self.lose(((2, 1), (2, 0), (3, 2)), lambda process: process.send_signal(signal.SIGSTOP),
                  f"does not answer ({TIMEOUT} s)", timeout=TIMEOUT)

    def test_exit(self):
        for size in (2, 3):
            processes = self.start("exit", size)
            self.assertEqual(3, self.wait(processes[-1])[0])
            self.all_fail(processes[:-1], f"rank {size - 1} has gone (connection closed)")

    def test_own_failure(self):
        for scenario, size, failing in (("fail", 2, 1), ("fail", 3, 2), ("rank0", 3, 0)):
            processes = self.start(scenario, size)
            self.all_fail([processes[failing]], "error: the disk is full")
            self.all_fail([p for p in processes if p is not processes[failing]], f"rank {failing}: the disk is full")

    def test_a_late_rank(self):
        processes = self.start("late", 3, timeout=TIMEOUT)
        self.all_fail([processes[0], processes[2]], f"rank 1 has not come to exchange 1 (table) within {TIMEOUT} s")


def run(test):
    result = unittest.TestResult()
    began = time.monotonic()
    test.run(result)
    failures = [text for _, text in result.failures + result.errors]
    print(f"{test.id()}: {'failed' if failures else 'ok'}, {time.monotonic() - began:.1f} s\n" + "\n".join(failures),
          end="", flush=True)
    return not failures


if __name__ == "__main__":
    RANKS = sys.argv[1]
    load = unittest.defaultTestLoader.loadTestsFromTestCase
    tests = [test for case in (Failures, Meeting, Verbs) for test in load(case)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        sys.exit(not (all(list(pool.map(run, tests))) and tests))
