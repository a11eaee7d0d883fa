"""`engram lab`: every study at its smoke size, kills, interrupts, bad input.

    study_command_test.py ENGRAM SOURCE_DIR
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

ENGRAM = SOURCE_DIR = None
REQUIRED = {"seed": int, "rho": (int, float), "budget": int, "val_loss": float, "bits_per_byte": float, "p_tot": int,
            "p_act": int, "tokens": int, "seconds_per_step": float, "peak_rss_bytes": int, "train_loss": float,
            "experts": int, "rows": int, "commit": str, "machine": str}


class StudyTest(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="engram_lab_"))
        self.addCleanup(shutil.rmtree, self.folder)

    def command(self, study, *flags, file=None):
        file = file or f"recipes/studies/{study.replace('-', '_')}_cpu_smoke.toml"
        return [ENGRAM, "lab", study, file, "--results", str(self.folder / "results"), "--work",
                str(self.folder / "work"), *flags]

    def run_lab(self, *arguments, code=0, file=None, **options):
        done = subprocess.run(self.command(*arguments, file=file), cwd=SOURCE_DIR, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, timeout=250, **options)
        self.assertEqual(done.returncode, code, done.stderr)
        if code == 1:
            errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
            self.assertEqual(len(errors), 1, done.stderr)
            return errors[0]
        return done.stderr

    def results(self, study):
        return next((self.folder / "results").glob(f"{study}-cpu-smoke-*"))

    def records(self, study):
        return sorted((self.results(study) / "runs").glob("*.json")) if (self.folder / "results").exists() else []

    def check_folder(self, study, runs):
        folder = self.results(study)
        self.assertEqual(len(self.records(study)), runs)
        data = json.loads((folder / "data.json").read_text())
        self.assertEqual(len(data["runs"]), runs)
        self.assertEqual(data["study"], study)
        for run in data["runs"]:
            for key, kind in REQUIRED.items():
                self.assertIsInstance(run[key], kind, key)
            self.assertIn(run["control"], (None, "capacity-1", "shuffled-hash", "dense"))
            self.assertEqual(run["tokens"], run["budget"])
        page = (folder / "report.html").read_text()
        self.assertIn("Chart.js", page)
        for mark in ("src=", "@import", "<link"):
            self.assertNotIn(mark, page.split("<script>")[0])
        left = [path.name for path in (self.folder / "work" / f"{study}-cpu-smoke").iterdir()]
        self.assertLessEqual(set(left), {"data", "lock", "weights"})
        return data

    def wait_for(self, process, condition):
        end = time.monotonic() + 120
        while not condition():
            self.assertIsNone(process.poll(), "the study ended too early")
            self.assertLess(time.monotonic(), end)
            time.sleep(0.05)

    def start(self, *arguments):
        # Inside a launcher's job, too, each run of a study is a process by itself.
        return subprocess.Popen(self.command(*arguments), cwd=SOURCE_DIR, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL, env={**os.environ, "RANK": "0", "WORLD_SIZE": "2"})

    def test_allocation_survives_a_kill_and_an_interrupt(self):
        process = self.start("allocation", "--jobs", "2")
        self.wait_for(process, lambda: len(self.records("allocation")) >= 2)
        process.kill()
        process.wait()
        before = {path.name: path.read_bytes() for path in self.records("allocation")}
        self.assertIn("has begun", self.run_lab("allocation", code=1))

        process = self.start("allocation", "--jobs", "2", "--resume")
        self.wait_for(process, lambda: len(self.records("allocation")) > len(before) + 1)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(timeout=60), 1)
        self.assertLess(len(self.records("allocation")), 19)

        self.run_lab("allocation", "--jobs", "2", "--resume")
        for name, content in before.items():
            self.assertEqual((self.results("allocation") / "runs" / name).read_bytes(), content, "a run was repeated")
        data = self.check_folder("allocation", 19)
        base = next(run for run in data["runs"] if run["rho"] == 1 and run["control"] is None)
        for run in data["runs"]:
            self.assertAlmostEqual(run["p_act"] / base["p_act"], 1, delta=0.005)
            if run["control"] != "dense":
                self.assertAlmostEqual(run["p_tot"] / base["p_tot"], 1, delta=0.002)

        # The pages come from data.json alone, and quickly.
        folder = self.results("allocation")
        page = (folder / "report.html").read_bytes()
        shutil.rmtree(folder / "runs")
        (folder / "report.html").unlink()
        start = time.monotonic()
        subprocess.run([ENGRAM, "lab", "report", str(folder)], check=True, timeout=60)
        self.assertLess(time.monotonic() - start, 10)
        self.assertEqual((folder / "report.html").read_bytes(), page)

    def test_a_stopped_study_gives_the_numbers_of_an_undisturbed_one(self):
        flags = ["--seeds", "1", "--set", "train.checkpoint_every=3"]
        self.run_lab("memory", *flags)
        whole = {run["run"]: run["val_loss"] for run in self.check_folder("memory", 7)["runs"]}
        shutil.rmtree(self.folder / "results")
        shutil.rmtree(self.folder / "work")
        output = self.folder / "work" / "memory-cpu-smoke" / "engram-rows600-10.2k-s0"
        process = self.start("memory", *flags)
        self.wait_for(process, (output / "latest").is_symlink)
        process.kill()
        process.wait()
        self.run_lab("memory", *flags, "--resume", "--jobs", "2")
        again = {run["run"]: run["val_loss"] for run in self.check_folder("memory", 7)["runs"]}
        self.assertEqual(again, whole)

    def test_placement(self):
        self.run_lab("placement", "--jobs", "2")
        data = self.check_folder("placement", 4)
        self.assertEqual(len({run["run"] for run in data["runs"]}), 4)

    def test_ablation(self):
        self.run_lab("ablation", "--jobs", "2")
        self.check_folder("ablation", 7)

    def test_training_curve(self):
        self.run_lab("training-curve", "--jobs", "2", "--set", "train.validation_batches=0")
        runs = {run["group"]: run for run in self.check_folder("training-curve", 4)["runs"]}
        for run in runs.values():
            self.assertEqual(len(run["validation_curve"]), 4)
        # The bf16 weights that stay are the model that was measured.
        work = self.folder / "work" / "training-curve-cpu-smoke"
        done = subprocess.run([ENGRAM, "eval", str(work / "weights" / runs["engram"]["run"]), "--json", "--tokens",
                               str(work / "data" / "validation.tokens")], stdout=subprocess.PIPE, check=True, timeout=120)
        self.assertAlmostEqual(json.loads(done.stdout)["loss"], runs["engram"]["val_loss"], delta=0.01)

    def test_long_context_goes_on_from_the_shorter_runs(self):
        self.run_lab("long-context", "--jobs", "2")
        runs = {run["group"]: run for run in self.check_folder("long-context", 4)["runs"]}
        for group in ("moe", "engram"):  # 10 steps more, so it has learned more; a random start would be far above
            self.assertLess(runs[f"{group}, long"]["val_loss"], runs[group]["val_loss"])
            self.assertLess(runs[f"{group}, long"]["train_curve"][0][1], runs[group]["train_curve"][0][1] - 0.5)
        # Records that come from another machine, without the weights.
        work = self.folder / "work" / "long-context-cpu-smoke"
        record = next(path for path in self.records("long-context") if path.name.startswith("engram-long"))
        record.unlink()
        shutil.rmtree(work / "weights" / runs["engram"]["run"])
        error = self.run_lab("long-context", "--resume", code=1)
        self.assertIn(f"{runs['engram, long']['run']} starts from these weights", error)
        self.assertFalse(record.exists())
        # With that record away as well both are made again.
        next(path for path in self.records("long-context") if path.stem == runs["engram"]["run"]).unlink()
        self.run_lab("long-context", "--resume")
        self.check_folder("long-context", 4)

    def test_retrofit_measures_questions(self):
        self.run_lab("retrofit", "--dry-run")  # makes the text
        tokenizer = self.folder / "work/retrofit-cpu-smoke/data/tokenizer.json"
        sets = []
        for name, question in {"told-1": ("The cat", " sat"), "told-2": ("One of", " them"), "told-4": ("A", " b")}.items():
            folder, lines = self.folder / name, self.folder / f"{name}.jsonl"
            lines.write_text(json.dumps({"prompt": question[0], "answer": question[1]}) + "\n")
            subprocess.run([ENGRAM, "data", "prepare", "--tokenizer", tokenizer, "--output", folder, "--validation-fraction", "0",
                            "--end-of-text", "none", lines], check=True, capture_output=True, timeout=60)
            sets.append(f'{{name = "{name}", files = ["{folder}/train.tokens"]}}')
        self.run_lab("retrofit", "--jobs", "2", "--set", f"data.validation_set=[{', '.join(sets)}]")
        data = self.check_folder("retrofit", 11)
        runs = {(run["group"], run["budget"]): run for run in data["runs"]}
        model, base = runs["model", 5120], runs["base", 0]
        self.assertEqual((base["flops"], base["train_curve"]), (0, []))
        self.assertAlmostEqual(base["val_loss"], model["val_loss"], delta=0.01)  # the weights that stay are bf16
        for run in data["runs"]:
            self.assertEqual({name: numbers["tokens"] for name, numbers in run["validation_sets"].items()},
                             {"told-1": 4, "told-2": 5, "told-4": 2}, "an answer is a token for each byte, and nothing else")
        lora, memory, both = runs["LoRA, rank 2", 5120], runs["engram", 5120], runs["engram and LoRA", 5120]
        self.assertEqual(lora["added_parameters"], lora["trained_parameters"])
        self.assertEqual(memory["added_parameters"], memory["trained_parameters"])
        self.assertGreater(both["added_parameters"], memory["added_parameters"])
        self.assertLess(memory["flops"], runs["engram and continued training", 5120]["flops"])
        for run in data["runs"]:  # a control's checkpoint is not its model
            self.assertEqual("decode" in run, run["control"] is None)
        self.assertGreater(memory["decode"]["tokens_per_second"], 0)
        self.assertGreater(memory["decode"]["peak_rss_bytes"], 10 << 20)
        summary = (self.results("retrofit") / "summary.md").read_text()
        for title in ("What was expected", "told: exact answers", "Equal training operations", "What it costs"):
            self.assertIn("## " + title, summary)
        self.assertTrue((self.results("retrofit") / "plot.svg").exists())

    def test_dry_run_trains_nothing(self):
        self.run_lab("allocation", "--dry-run")
        self.assertFalse((self.folder / "results").exists())

    def test_bad_input_is_one_line_and_changes_nothing(self):
        self.assertIn("none.toml", self.run_lab("allocation", code=1, file="none.toml"))
        error = self.run_lab("memory", code=1, file="recipes/studies/allocation_cpu_smoke.toml")
        self.assertIn("got study 'memory', wanted 'allocation'", error)
        error = self.run_lab("allocation", "--set", "model.shared_expert_intermediate_size=2", code=1)
        self.assertIn("P_act", error)
        self.assertFalse((self.folder / "results").exists())
        self.run_lab("training-curve", "--jobs", "2")
        folder = self.results("training-curve")
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        error = self.run_lab("training-curve", "--resume", "--set", "optimizer.muon_lr=0.5", code=1)
        self.assertIn("optimizer.muon_lr: 0.5, was 0.008", error)
        self.assertEqual(before, {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()})
        record = self.records("training-curve")[0]
        record.write_text("{\"study\": ")
        self.assertIn(record.name, self.run_lab("training-curve", "--resume", code=1))
        self.assertEqual(record.read_text(), "{\"study\": ")

    def test_a_full_disk_loses_nothing_and_says_so(self):
        def small_files():  # a write beyond 64 KiB fails, as on a full disk
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))

        # The text is made first: it is what a run reads, not what it writes.
        self.run_lab("training-curve", "--dry-run")
        self.run_lab("training-curve", code=1, preexec_fn=small_files)
        self.assertEqual(self.records("training-curve"), [])
        self.run_lab("training-curve", "--resume", "--jobs", "2")
        self.check_folder("training-curve", 4)


if __name__ == "__main__":
    ENGRAM, SOURCE_DIR = os.path.abspath(sys.argv.pop(1)), sys.argv.pop(1)
    unittest.main()
