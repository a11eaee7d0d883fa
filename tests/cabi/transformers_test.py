"""engram.torch and engram.transformers beside transformers' own Qwen4Exp: the same logits, bit for bit, less memory.

    transformers_test.py ENGRAM SOURCE_DIR

Needs the oracle environment and the package in build/wheel-oracles (scripts/wheel.sh --oracles); skipped without them.
"""

import copy
import gc
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from unittest import mock

ENGRAM, SOURCE = sys.argv[1], pathlib.Path(sys.argv[2])
ORACLES, PACKAGE = SOURCE / ".venv-oracles/bin/python", SOURCE / "build/wheel-oracles"
if pathlib.Path(sys.executable).absolute() != ORACLES.absolute():
    if not ORACLES.exists() or not PACKAGE.exists():
        print("skipped: no .venv-oracles (scripts/setup.sh --oracles) or no build/wheel-oracles (scripts/wheel.sh --oracles)")
        sys.exit(77)
    os.execve(ORACLES, [str(ORACLES), *sys.argv], {**os.environ, "PYTHONPATH": str(PACKAGE)})

import numpy  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from transformers.models.qwen4_exp import modeling_qwen4_exp as qwen4exp  # noqa: E402

import engram.torch  # noqa: E402
import engram.transformers  # noqa: E402

EOS, VOCABULARY = 7, 96


def config_of(**keys):
    return qwen4exp.Qwen4ExpTextConfig(**{**dict(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=1,
        head_dim=16, linear_key_head_dim=8, linear_value_head_dim=8, linear_num_key_heads=2, linear_num_value_heads=2,
        moe_intermediate_size=16, shared_expert_intermediate_size=16, num_experts_per_tok=2, num_experts=4,
        eos_token_id=[EOS, 8], pad_token_id=0, hc_count=2, hc_lowrank=4, ple_layer_ids=[2, 4], ple_embed_dim=128,
        ngram_size=3, heads_per_ngram=2, ngram_vocab_size_base=500, make_ngram_vocab_size_divisible_by=16,
        split_ngram_parts=4, seed=99, indexer_n_heads=2, indexer_kv_heads=1, indexer_head_dim=16, indexer_budget=8,
        indexer_compress_ratio=4, initializer_range=0.2,
        layer_types=["linear_attention", "linear_attention", "indexed_attention", "linear_attention"]), **keys})


def random_model(seed=0, dtype=None, **keys):
    torch.manual_seed(seed)
    model = qwen4exp.Qwen4ExpForCausalLM(config_of(**keys)).eval()
    for name, weight in model.named_parameters():
        if "ple." in name and "ngram_embedding" not in name:  # some of them begin with 0
            torch.nn.init.normal_(weight, std=0.3)
    return model.to(dtype or torch.float32)


def engram_command(*arguments):
    done = subprocess.run([ENGRAM, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise AssertionError(done.stderr)


def prompts(batch, length, seed=1):
    ids = torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))
    ids[:, ::5] = EOS
    return ids


class Folder(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)

    @classmethod
    def saved(cls, model, name):
        """The model's folder and its table, as a user makes them."""
        folder, rows = cls.folder / name, cls.folder / f"{name}.rows"
        if not folder.exists():
            model.save_pretrained(folder)
            engram_command("table", "convert", folder, rows)
        return folder, rows


class Tensors(Folder):
    """engram.torch, and arrays that change hands without a copy."""

    def setUp(self):
        model = random_model(dtype=torch.bfloat16)
        self.weight = model.model.layers[1].ple.ple_embedding.ngram_embedding.weight.detach()
        self.table = engram.Table(f"nvme:{self.saved(model, 'bf16')[1]}?cache=1MiB")

    def test_rows_change_hands_without_a_copy(self):
        rows = self.table.lookup([3, 1, 4])
        for taken in (torch.from_dlpack(rows), torch.from_numpy(rows)):
            self.assertEqual(rows.ctypes.data, taken.data_ptr())
        self.assertEqual(rows.ctypes.data, numpy.from_dlpack(rows).ctypes.data)
        self.assertTrue(torch.equal(self.weight[[3, 1, 4]].float(), torch.from_dlpack(rows)))

    def test_a_tensor_keeps_the_rows_alive(self):
        pending = self.table.read(numpy.arange(1000))
        raw = torch.from_dlpack(pending.wait())
        values = torch.from_dlpack(self.table.lookup(numpy.arange(1000)))
        self.table = pending = None
        gc.collect()
        [bytearray(1 << 16) for _ in range(100)]  # what was freed is used again
        self.assertTrue(torch.equal(self.weight[:1000].float(), values))
        self.assertTrue(torch.equal(self.weight[:1000], raw.view(torch.bfloat16)))

    def test_memory_of_the_caller(self):
        ids = numpy.array([[5, 6], [7, 5]])
        raw = torch.full((2, 2, 64), 77, dtype=torch.uint8)
        pending = self.table.read(ids, out=raw)
        self.assertIs(raw, pending.wait())
        self.assertTrue(torch.equal(self.weight[ids], raw.view(torch.bfloat16)))
        for dtype, name in ((torch.bfloat16, "bfloat16"), (torch.float32, "float32")):
            out = torch.empty(2, 2, 32, dtype=dtype)
            self.assertIs(out, self.table.lookup(ids, dtype=name, out=out))
            self.assertTrue(torch.equal(self.weight[ids].to(dtype), out))
        for bad in (torch.empty(2, 2, 63, dtype=torch.uint8), torch.empty(2, 2, 128, dtype=torch.uint8)[..., ::2]):
            with self.assertRaises((ValueError, TypeError)):
                self.table.read(ids, out=bad)
        with self.assertRaises((ValueError, TypeError)):
            self.table.lookup(ids, dtype="bfloat16", out=torch.empty(2, 2, 32, dtype=torch.float16))
        with self.assertRaises((ValueError, TypeError)):
            self.table.lookup(ids, out=torch.empty(2, 2, 32, device="meta"))

    def test_a_module_with_the_table_behind_it(self):
        ids = torch.tensor([[0, 9], [9, 2]])
        for dtype in (torch.bfloat16, torch.float32, torch.float16, torch.float64):
            module = engram.torch.EngramEmbedding(self.table, dtype=dtype)
            self.assertTrue(torch.equal(torch.nn.functional.embedding(ids, self.weight.to(dtype)), module(ids)))
        self.assertEqual(torch.bfloat16, module.to(torch.bfloat16)(ids).dtype)
        pending = module.start(ids)
        self.assertTrue(torch.equal(self.weight[ids], module.finish(pending)))
        self.assertEqual([], list(module.parameters()) + list(module.state_dict()))
        with self.assertRaises(IndexError):
            module(torch.tensor([10**9]))

    def test_a_step_of_several_sequences(self):
        hasher, tokens = self.table.hasher(), [1, 2, 3, 9]
        rows = self.table.read_step(hasher, tokens, [3, 1], [[-1, -1], [4, 5]])
        for layer, pending in enumerate(rows):
            ids = numpy.concatenate([hasher.hash(tokens[:3], layer), hasher.hash([9], layer, lookback=[4, 5])])
            self.assertTrue((self.table.read(ids, layer).wait() == pending.wait()).all())
        with self.assertRaisesRegex(ValueError, "max_ngram_size - 1"):
            self.table.read_step(hasher, tokens, [3, 1], [[-1], [4]])
        with self.assertRaisesRegex(ValueError, "add up to 3"):
            self.table.read_step(hasher, tokens, [3])


class Attach(Folder):
    def pair(self, dtype=torch.float32, tier="nvme:{}?cache=1MiB", **keys):
        """The untouched model, and its copy with a table."""
        plain = random_model(dtype=dtype, **keys)
        rows = self.saved(plain, f"{dtype}-{sorted(keys)}".replace("torch.", ""))[1]
        attached = copy.deepcopy(plain)
        self.table = engram.transformers.attach(attached, tier.format(rows))
        return plain, attached

    def same(self, plain, attached, *arguments, **options):
        with torch.no_grad():
            wanted, got = (model(*arguments, **copy.deepcopy(options)) for model in (plain, attached))
        self.assertTrue(torch.isfinite(wanted.logits).all())
        self.assertTrue(torch.equal(wanted.logits, got.logits))
        return wanted, got

    def test_prefill(self):
        for dtype in (torch.float32, torch.bfloat16):
            for tier in ("dram:{}", "mapped:{}", "pagecache:{}", "nvme:{}", "nvme:{}?cache=1MiB"):
                with self.subTest(f"{dtype} {tier}"):
                    self.same(*self.pair(dtype, tier), prompts(3, 21))
        plain, attached = self.pair()
        for length in (1, 2, 3):
            self.same(plain, attached, prompts(2, length), use_cache=False)

    def test_one_wrong_row_is_seen(self):
        plain, attached = self.pair()

        def damaged(*arguments):
            rows = decode(*arguments)
            rows[0, -1] += 1  # the last head of the last token
            return rows

        decode = engram.transformers.decode
        with torch.no_grad(), mock.patch.object(engram.transformers, "decode", damaged):
            self.assertFalse(torch.equal(plain(prompts(1, 9)).logits, attached(prompts(1, 9)).logits))

    def test_a_batch_with_padding(self):
        for dtype in (torch.float32, torch.bfloat16):
            plain, attached = self.pair(dtype)
            ids, mask = prompts(4, 17), torch.ones(4, 17, dtype=torch.long)
            for row, padding in enumerate((0, 3, 16, 9)):
                ids[row, :padding], mask[row, :padding] = 0, 0
            self.same(plain, attached, ids, attention_mask=mask)

    def test_chunks_with_a_cache(self):
        plain, attached = self.pair()
        for sizes in ((1, 1, 1, 1, 20), (2, 3, 1, 7), (9, 1, 1, 1)):
            ids, first, caches = prompts(3, sum(sizes)), 0, (None, None)
            for size in sizes:
                with torch.no_grad():
                    wanted, got = (model(ids[:, first : first + size], cache=cache, use_cache=True)
                                   for model, cache in zip((plain, attached), caches))
                self.assertTrue(torch.equal(wanted.logits, got.logits), sizes)
                caches, first = (wanted.cache, got.cache), first + size

    def test_generate(self):
        for dtype in (torch.float32, torch.bfloat16):
            plain, attached = self.pair(dtype)
            ids, mask = prompts(3, 11), torch.ones(3, 11, dtype=torch.long)
            ids[1, :6], mask[1, :6] = 0, 0
            for name, options in {"greedy": {}, "beams": {"num_beams": 4, "num_return_sequences": 2},
                                  "sampling": {"do_sample": True, "top_k": 0},
                                  "static": {"cache_implementation": "static"},
                                  "no_cache": {"use_cache": False}}.items():
                with self.subTest(f"{name} {dtype}"):
                    outputs = []
                    for model in (plain, attached):
                        torch.manual_seed(3)
                        outputs.append(model.generate(ids, attention_mask=mask, max_new_tokens=24, min_new_tokens=24,
                                                      output_scores=True, return_dict_in_generate=True, **options))
                    wanted, got = outputs
                    self.assertTrue(torch.equal(wanted.sequences, got.sequences))
                    self.assertTrue(torch.equal(torch.stack(wanted.scores), torch.stack(got.scores)))

    def test_inside_a_model_with_images(self):
        config = transformers.Qwen4ExpConfig(
            text_config=config_of().to_dict(), image_token_id=90, video_token_id=91, vision_start_token_id=92,
            vision_end_token_id=93, vision_config=dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2,
                                                       out_hidden_size=32, num_position_embeddings=16))  # fmt: skip
        folder, rows = self.saved(qwen4exp.Qwen4ExpForConditionalGeneration(config), "images")
        plain = qwen4exp.Qwen4ExpForConditionalGeneration.from_pretrained(folder)
        attached = engram.transformers.from_pretrained(folder, f"dram:{rows}", qwen4exp.Qwen4ExpForConditionalGeneration)
        self.same(plain, attached, prompts(2, 9))

    def test_embeddings_instead_of_ids(self):
        plain, attached = self.pair()
        embeddings = plain.model.embed_tokens(prompts(2, 7)).detach()
        self.same(plain, attached, inputs_embeds=embeddings)

    def test_rows_are_read_once_and_before_the_first_block(self):
        plain, attached = self.pair()
        before = [self.table.stats(layer)["reads"] for layer in (0, 1)]
        reads = lambda: [self.table.stats(layer)["reads"] - at for layer, at in enumerate(before)]  # noqa: E731
        seen = []

        def first_block(*_):
            deadline = time.monotonic() + 60  # a read counts when it is over
            while reads() != [len(seen) + 1] * 2 and time.monotonic() < deadline:
                time.sleep(0.001)
            seen.append(reads())

        hook = attached.model.layers[0].register_forward_pre_hook(first_block)
        ids, mask = prompts(2, 8), torch.ones(2, 8, dtype=torch.long)
        mask[0, :3] = 0
        for options in ({}, {"attention_mask": torch.ones_like(mask)}, {"attention_mask": mask}):
            self.same(plain, attached, ids, **options)
        hook.remove()
        self.assertEqual([[1, 1], [2, 2], [3, 3]], seen)
        self.assertEqual([3, 3], reads())

    def test_several_threads(self):
        plain, attached = self.pair()
        failures = []

        def work(seed):
            for step in range(5):
                ids = prompts(2, 6, 100 * seed + step)
                with torch.no_grad():
                    if not torch.equal(plain(ids).logits, attached(ids).logits):
                        failures.append(seed)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual([], failures)

    def test_a_model_that_never_had_the_weights(self):
        for dtype in (torch.float32, torch.bfloat16):
            with self.subTest(str(dtype)):
                plain = random_model(dtype=torch.bfloat16)
                folder, rows = self.saved(plain, "bfloat16-[]")
                loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
                model, found = engram.transformers.from_pretrained(folder, f"nvme:{rows}", dtype=dtype,
                                                                   output_loading_info=True)
                self.assertEqual([set()] * 3, [set(found[key]) for key in
                                               ("missing_keys", "unexpected_keys", "mismatched_keys")])
                names = [name for name, _ in model.named_parameters() if "ngram_embedding" in name]
                self.assertEqual([], names)
                self.same(loaded, model, prompts(3, 15))
                self.assertIs(qwen4exp.Qwen4ExpTextNGramEmbedding, type(random_model().model.layers[1].ple.ple_embedding))
                model.save_pretrained(self.folder / "without")
                again = engram.transformers.from_pretrained(self.folder / "without", f"dram:{rows}", dtype=dtype)
                self.same(loaded, again, prompts(2, 9))

    def test_another_table_later(self):
        plain, attached = self.pair()
        rows = self.saved(plain, "float32-[]")[1]
        second = engram.transformers.attach(attached, f"dram:{rows}")
        self.same(plain, attached, prompts(2, 9))
        self.assertEqual([1, 1], [second.stats(layer)["reads"] for layer in (0, 1)])

    def test_a_table_of_another_model(self):
        plain = random_model()
        for name, message, other in (
                ("rule", "hashes otherwise", random_model(seed=1, ngram_vocab_size_base=499)),
                ("blocks", "has blocks", random_model(seed=1, ple_layer_ids=[1, 4])),
                ("rows", "other rows than the model", random_model(seed=1)),
                ("shape", "the table is", random_model(seed=1, make_ngram_vocab_size_divisible_by=128))):
            with self.subTest(name), self.assertRaisesRegex(ValueError, message):
                engram.transformers.attach(plain, f"dram:{self.saved(other, 'refused_' + name)[1]}")
        self.assertIsNotNone(plain.model.layers[1].ple.ple_embedding.ngram_embedding)
        with self.assertRaisesRegex(ValueError, "no Qwen4Exp text model"):
            engram.transformers.attach(torch.nn.Linear(2, 2), f"dram:{self.saved(random_model(), 'float32-[]')[1]}")


MEASURE = """
import json, resource, sys
import torch
from transformers import AutoModelForCausalLM
import engram.transformers
folder, uri = sys.argv[1:3]
def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key + ":"))
def measure():
    return {"resident": status("VmRSS"), "peak": status("VmHWM")}
torch.set_num_threads(1)
before = measure()
if uri:
    model = engram.transformers.from_pretrained(folder, uri)
else:
    model = AutoModelForCausalLM.from_pretrained(folder)
loaded = measure()
with torch.no_grad():
    logits = model(torch.arange(1, 65).view(2, 32)).logits
after = measure()
print(json.dumps({"before": before, "loaded": loaded, "after": after, "sum": logits.double().sum().item().hex()}))
"""


class Memory(Folder):
    def test_memory_falls_by_the_table(self):
        model = random_model(dtype=torch.bfloat16, ngram_vocab_size_base=400_000)  # 2 x 102 MB
        folder, rows = self.saved(model, "large")
        bytes_of_table = rows.stat().st_size
        self.assertGreater(bytes_of_table, 190 << 20)
        found = {}
        for name, uri in (("untouched", ""), ("attached", f"nvme:{rows}?cache=1MiB")):
            done = subprocess.run([sys.executable, "-c", MEASURE, folder, uri], capture_output=True, text=True,
                                  env={**os.environ, "PYTHONPATH": str(PACKAGE)}, check=True)
            found[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"\ntable {bytes_of_table >> 20} MiB")
        for name, one in found.items():
            print(name, {when: {key: f"{value >> 20} MiB" for key, value in one[when].items()}
                         for when in ("before", "loaded", "after")})
        self.assertEqual(found["untouched"]["sum"], found["attached"]["sum"])
        for key in ("resident", "peak"):
            saved = found["untouched"]["after"][key] - found["attached"]["after"][key]
            self.assertGreater(saved, 0.9 * bytes_of_table, key)


if __name__ == "__main__":
    torch.set_num_threads(1)
    del sys.argv[1:3]
    unittest.main(verbosity=2)
