#!/usr/bin/env python3
"""make_random_model_test.py ANYFP8: writes small models with make_random_model.py and runs them with the program."""
import json
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from make_random_model import DIALECTS, MODELS, e4m3_values, make_random_model, normal_codes

PROGRAM = sys.argv.pop() if len(sys.argv) > 1 else None
SMALL = {"layers": 1, "vocab": 300}
GROUPS = {"block": "128x128", "channel": "row", "tensor": "tensor", "mxfp8": "1x32"}


def read_tensors(path):
    data = path.read_bytes()
    size = struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__")
    tensors = {name: (t, data[8 + size :][slice(*t["data_offsets"])]) for name, t in header.items()}
    return tensors, 8 + size + max(t["data_offsets"][1] for t in header.values()) - len(data)


class MakeRandomModelTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = Path(self.folder.name, "model")

    def run_program(self, *arguments):
        return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, errors="replace", check=False)

    def run_tool(self, out):
        tool = Path(__file__).with_name("make_random_model.py")
        command = [sys.executable, "-B", tool, "--like", "qwen3-0.6b", out]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def test_codes_are_normal_values_without_nan(self):
        codes, deviation = normal_codes()
        self.assertEqual(len(codes), 256)
        self.assertFalse({0x7F, 0xFF} & set(codes))
        self.assertEqual(e4m3_values()[-1], 448)
        self.assertAlmostEqual(deviation / 448, 1 / 2.885, delta=0.01)  # 448 at the quantile 255.5 / 256

    def test_files_are_whole_and_repeatable(self):
        make_random_model("qwen2.5-0.5b", self.path, **SMALL)
        tensors, difference = read_tensors(self.path / "model.safetensors")
        self.assertEqual(difference, 0)
        info, data = tensors["model.layers.0.self_attn.k_proj.weight"]
        self.assertEqual((info["dtype"], info["shape"]), ("F8_E4M3", [128, 896]))
        self.assertGreater(len(set(data)), 90)
        self.assertEqual(tensors["model.layers.0.self_attn.k_proj.weight_scale_inv"][0]["shape"], [1, 7])
        self.assertEqual(set(tensors["model.norm.weight"][1]), {0x80, 0x3F})
        again, other = Path(self.folder.name, "again"), Path(self.folder.name, "other")
        make_random_model("qwen2.5-0.5b", again, **SMALL)
        make_random_model("qwen2.5-0.5b", other, **SMALL, seed=1)
        weights = [(path / "model.safetensors").read_bytes() for path in (self.path, again, other)]
        self.assertEqual(weights[0], weights[1])
        self.assertNotEqual(weights[0], weights[2])

    def test_what_exists_is_kept(self):
        self.path.mkdir()
        Path(self.path, "mine").write_text("kept")
        ended = self.run_tool(self.path)
        self.assertEqual(ended.returncode, 2)
        self.assertIn("not an empty directory", ended.stderr)
        self.assertEqual([path.name for path in self.path.iterdir()], ["mine"])

    def test_what_cannot_be_written_is_one_sentence(self):
        self.path.write_text("a file")
        ended = self.run_tool(self.path / "model")
        self.assertEqual(ended.returncode, 1)
        self.assertRegex(ended.stderr, r"\Amake_random_model: cannot write .*model/model: Not a directory\n\Z")

    @unittest.skipIf(PROGRAM is None, "no program was named")
    def test_the_program_runs_every_scheme(self):
        for scheme in DIALECTS:
            with self.subTest(scheme):
                path = str(self.path / scheme)
                make_random_model("qwen3-0.6b", Path(path), scheme, **SMALL)
                self.assertIn(f"e4m3 {GROUPS[scheme]}", self.run_program("inspect", path).stdout)
                self.assertEqual(self.run_program("plan", path).returncode, 0)
                self.generates(path)

    @unittest.skipIf(PROGRAM is None, "no program was named")
    def test_the_program_runs_every_model(self):
        for like in MODELS:
            with self.subTest(like):
                make_random_model(like, self.path / like, **SMALL)
                self.generates(str(self.path / like))

    def generates(self, path):
        ended = self.run_program("generate", path, "--prompt", "a b", "--max-tokens", "5")
        if "ICU" in ended.stderr:
            return  # this build has no tokenizer
        self.assertEqual(ended.returncode, 0, ended.stderr)
        self.assertRegex(ended.stderr, r"prompt 3 tokens, .*; generated 5 tokens, ")
        self.assertRegex(ended.stderr, r"of weights for each generated token, [0-9.]+ GB/s")


if __name__ == "__main__":
    unittest.main()
