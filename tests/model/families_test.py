"""engram import and export beside transformers: every family there and back.

    families_test.py ENGRAM SOURCE_DIR       runs itself again in the oracle environment; without one it is skipped (77)

For each family of tests/golden/make/families.py, a model with fresh random weights: transformers saves it, we import
it; our log probabilities are those of transformers; we export it; the exported folder has the same tensors, bit for
bit, and transformers computes the same logits from it. Models of ours that no family computes are exported with
modeling_engram.py, and transformers gets our log probabilities from it. Low-rank changes that we trained are read by
PEFT, and merged by an export. Also what is refused: each with one line, and nothing written.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ENGRAM, SOURCE = sys.argv[1], pathlib.Path(sys.argv[2])
ORACLES = SOURCE / ".venv-oracles/bin/python"


def engram(*arguments):
    return subprocess.run([ENGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=300)


class Families(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="engram_families_"))
        text = cls.folder / "text.txt"
        text.write_text("hello world\n")
        cls.tokenizer = cls.folder / "tokenizer.json"
        trained = engram("tokenizer", "train", "--output", cls.tokenizer, "--vocab-size", 260, text)
        assert trained.returncode == 0, trained.stderr

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def check(self, done):
        self.assertEqual(0, done.returncode, done.stderr)
        return done.stdout

    def refused(self, source, message):
        target = self.folder / "refused"
        done = engram("import", source, target)
        self.assertEqual(1, done.returncode, done.stdout)
        self.assertEqual(1, done.stderr.count("\n"), done.stderr)
        self.assertIn(message, done.stderr)
        self.assertEqual([], [path.name for path in self.folder.glob("refused*")])

    def saved(self, name):
        folder = self.folder / f"{name}_saved"
        if not folder.exists():
            families.save_model(name, folder)
            shutil.copy(self.tokenizer, folder)
        return folder

    def test_there_and_back(self):
        for name in families.FAMILIES:
            with self.subTest(name):
                saved = self.saved(name)
                ours, back = self.folder / f"{name}_ours", self.folder / f"{name}_back"
                self.check(engram("import", saved, ours))
                model = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32).eval()
                tokens = torch.randint(0, 256, (1, 60), generator=torch.Generator().manual_seed(1))
                wanted = families.logits_of(model, tokens)
                score = json.loads(self.check(engram("score", ours, "--ids", " ".join(map(str, tokens[0].tolist())),
                                                     "--json")))
                got = torch.tensor(score["logprobs"][1:])
                logprobs = wanted[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
                self.assertLess((got - logprobs).abs().max().item(), 1e-4)

                self.check(engram("export", "hf", ours, back))
                theirs = AutoModelForCausalLM.from_pretrained(back, dtype=torch.float32).eval()
                self.assertLess((families.logits_of(theirs, tokens) - wanted).abs().max().item(), 1e-6)
                self.assertEqual(self.tensors(saved), self.tensors(back))

    def test_low_rank_changes_leave_by_two_doors(self):
        """Merged, as a model that transformers computes; and as they are, as an adapter that PEFT puts beside the base."""
        every = '["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]'
        latent = '["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"]'
        for name, targets in {"llama": every, "qwen2": every, "deepseek_v3": latent}.items():
            with self.subTest(name):
                saved, base = self.saved(name), self.folder / f"{name}_base"
                run, back, text = self.folder / f"{name}_lora", self.folder / f"{name}_merged", self.folder / f"{name}.txt"
                text.write_text("the cat sat on the mat and the dog sat on the log\n" * 20)
                self.check(engram("import", saved, base))
                self.check(engram("data", "prepare", "--tokenizer", base / "tokenizer.json", "--output", self.folder / f"{name}_data",
                                  "--validation-fraction", "0", text))
                recipe = self.folder / f"{name}.toml"
                recipe.write_text(f"""
                    [model]
                    max_position_embeddings = 64
                    [data]
                    train = ["{self.folder}/{name}_data/train.tokens"]
                    sequence_length = 32
                    batch_size = 2
                    [optimizer]
                    adamw_lr = 0.02
                    [lora]
                    rank = 3
                    targets = {targets}
                    [train]
                    start_from = "{base}"
                    freeze = ["backbone"]
                    steps = 4
                    output = "{run}"
                    """)
                self.check(engram("train", recipe))
                tokens = torch.randint(0, 256, (1, 60), generator=torch.Generator().manual_seed(1))
                score = json.loads(self.check(engram("score", run, "--ids", " ".join(map(str, tokens[0].tolist())), "--json")))
                ours = torch.tensor(score["logprobs"][1:])
                self.check(engram("export", "hf", run, back))
                plain = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32).eval()
                before = families.logits_of(plain, tokens)
                merged = AutoModelForCausalLM.from_pretrained(back, dtype=torch.float32).eval()
                adapted = peft.PeftModel.from_pretrained(plain, run / "latest").eval()
                for model in (merged, adapted):
                    logits = families.logits_of(model, tokens)
                    self.assertGreater((logits - before).abs().max().item(), 0.05)  # something was learned
                    logprobs = logits[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
                    self.assertLess((ours - logprobs).abs().max().item(), 1e-4)

    def test_our_own_code(self):
        gqa = ["model.attention=gqa", "model.head_dim=8"]
        hyper = ["model.residual=hyper", "model.hc_mult=2"]
        for name, keys in {"memory": [], "branches": hyper, "one_gate": [*hyper, "model.engram.branch_gates=false"],
                           "plain_parts": [*gqa, "model.qkv_bias=true", "model.qk_norm=true", "model.ffn=dense",
                                           "model.engram.conv=false", "model.engram.gate=false", "model.engram.proj_bias=true"],
                           "over_encoding": ["model.memory=over_encoding", "model.engram.layer_ids=[0]"],
                           "qwen4exp": [*hyper, "model.engram.rule=qwen4exp", "model.engram.eos_token_id=32",
                                        "model.shared_expert_intermediate_size=128"],
                           "longcat": ["model.engram.rule=longcat", "model.engram.average_word=false",
                                       "model.engram.eos_token_id=32"]}.items():
            with self.subTest(name):
                ours, back = self.folder / f"{name}_run", self.folder / f"{name}_exported"
                keys = [*keys, "train.steps=3", f"train.output={ours}", "optimizer.warmup_steps=1",
                        "data.synthetic.documents=200", "model.initializer_range=0.2"]
                if name != "over_encoding":
                    keys.append("model.memory=engram")
                recipe = "rules_smoke" if "rule=" in "".join(keys) else "smoke"
                sets = [word for key in keys for word in ("--set", key)]
                self.check(engram("train", SOURCE / f"recipes/{recipe}.toml", *sets))
                self.check(engram("export", "hf", ours, back))
                model = AutoModelForCausalLM.from_pretrained(back, trust_remote_code=True, dtype=torch.float32).eval()
                tokens = torch.randint(0, model.config.vocab_size, (1, 50), generator=torch.Generator().manual_seed(1))
                score = json.loads(self.check(engram("score", ours, "--ids", " ".join(map(str, tokens[0].tolist())),
                                                     "--json")))
                logprobs = families.logits_of(model, tokens)[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None])
                self.assertLess((torch.tensor(score["logprobs"][1:]) - logprobs[:, 0]).abs().max().item(), 1e-4)

    @staticmethod
    def tensors(folder):
        found = {}
        for path in folder.glob("*.safetensors"):
            for key, value in load_file(path).items():
                exact = key.endswith("e_score_correction_bias")  # F32 in our files
                found[key] = (value.float() if exact else value).numpy(force=True).tobytes() if value.dtype != \
                    torch.bfloat16 or exact else value.view(torch.int16).numpy().tobytes()
        return found

    def edited(self, name, **keys):
        folder = self.folder / "edited"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.saved(name), folder)
        config = json.loads((folder / "config.json").read_text())
        config.update(keys)
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    def test_arithmetic_that_we_do_not_have(self):
        for name, key, value in [
                ("mistral", "sliding_window", 32), ("qwen2", "use_sliding_window", True), ("llama", "hidden_act", "gelu"),
                ("llama", "attention_bias", True), ("llama", "mlp_bias", True), ("llama", "final_logit_softcapping", 30.0),
                ("llama", "attn_logit_softcapping", 50.0), ("llama", "partial_rotary_factor", 0.5),
                ("llama", "model_type", "gemma"), ("llama", "quantization_config", {"quant_method": "fp8"}),
                ("llama", "embedding_multiplier", 12.0), ("qwen3", "layer_types", ["sliding_attention"] * 2),
                ("llama", "rope_parameters", {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
                ("deepseek_v3", "scoring_func", "softmax"), ("deepseek_v3", "rope_interleave", False),
                ("deepseek_v3", "n_group", 3)]:
            with self.subTest(key):
                self.refused(self.edited(name, **{key: value}),
                             "rope_parameters.rope_type" if key == "rope_parameters" else key)

    def test_folders_that_are_not_whole(self):
        folder = self.edited("llama")
        (folder / "tokenizer.json").unlink()
        self.refused(folder, "tokenizer.json: no such file")
        folder = self.edited("mistral")
        shards = sorted(folder.glob("model-*.safetensors"))
        shutil.copy(shards[0], shards[1])
        self.refused(folder, "is in it, and model.safetensors.index.json says")
        shards[1].unlink()
        self.refused(folder, shards[1].name)
        index = folder / "model.safetensors.index.json"
        index.unlink()
        self.refused(folder, "no tensor")
        shutil.copy(shards[0], shards[1])
        self.refused(folder, "is also in")
        folder = self.edited("llama", num_hidden_layers=1)
        self.assertNotIn("error", engram("import", folder, self.folder / "fewer").stderr)  # what follows is left out
        self.refused(self.edited("llama", vocab_size=262), "got shape [264, 16], wanted [262, 16]")
        self.refused(self.edited("llama", vocab_size=200), "vocab_size: got 200")
        self.refused(self.edited("qwen2", model_type="llama"), "which config.json does not ask for")

    def test_a_destination_that_is_there(self):
        target = self.folder / "there"
        target.mkdir()
        done = engram("import", self.saved("llama"), target)
        self.assertEqual((1, 1), (done.returncode, done.stderr.count("\n")))
        self.assertIn("it is there already", done.stderr)
        self.assertEqual([], list(target.iterdir()))


if __name__ == "__main__":
    if pathlib.Path(sys.executable).absolute() != ORACLES.absolute():
        if not ORACLES.exists():
            print("skipped: no .venv-oracles; scripts/setup.sh --oracles makes it")
            sys.exit(77)
        os.execv(ORACLES, [str(ORACLES), *sys.argv])
    sys.path.insert(0, str(SOURCE / "tests/golden/make"))
    os.environ.setdefault("HF_MODULES_CACHE", tempfile.mkdtemp(prefix="engram_modules_"))
    import peft
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    import families
    torch.set_num_threads(1)
    del sys.argv[1:3]
    unittest.main(verbosity=2)
