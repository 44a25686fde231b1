#!/usr/bin/env python3
"""What plot_bench.py makes of rows, and its sentences; needs no matplotlib."""
import contextlib
import io
import json
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import plot_bench


def row(kind, name, m, us, shape=(64, 64), **more):
    n, k = shape
    flops = 2 * m * n * k
    return {"schema_version": 1, "type": kind, "name": name, "activations": "bf16", "device": "CPU", "threads": 2,
            "command": "anyfp8 bench", "n": n, "k": k, "m": m, "us": us, "gflop_per_s": flops / us * 1e-3, **more}


def case(m, kernel_us, peer_us, **more):
    return [row("kernel", "ours", m, kernel_us, scheme="channel", of_read=1 / kernel_us, **more),
            row("peer", "theirs", m, peer_us, **more), row("read", "read", m, 1, **more),
            {**row("peak", "dot", m, 1, **more), "gflop_per_s": 100}]


class PlotBenchTest(unittest.TestCase):
    def test_few_tokens_are_read_limited_and_many_compute_limited(self):
        # A pass over the weights takes 1 us, a token's arithmetic 0.08 us.
        reading, computing, kernels, peak, peak_name = plot_bench.summarize(case(1, 1.25, 4) + case(100, 16, 8))
        self.assertEqual({label: list(by_m) for label, by_m in reading.items()}, {"ours": [1], "theirs": [1]})
        self.assertAlmostEqual(reading["ours"][1], 0.8)
        self.assertAlmostEqual(reading["theirs"][1], 0.25)
        self.assertAlmostEqual(computing["theirs"][100], 2 * 100 * 64 * 64 / 8 * 1e-3)
        self.assertEqual((kernels, peak, peak_name), (["ours"], 100, "dot"))

    def test_shapes_are_averaged_geometrically(self):
        rows = case(1, 2, 4) + case(1, 8, 16, shape=(64, 128))
        self.assertAlmostEqual(plot_bench.summarize(rows)[0]["ours"][1], 0.25)

    def test_a_peer_that_could_not_run_has_no_bar(self):
        rows = case(1, 2, 4)
        rows[1] = {**rows[1], "refused": "no"}
        del rows[1]["us"]
        self.assertEqual(list(plot_bench.summarize(rows)[0]), ["ours"])

    def expect_failure(self, sentence, text, **modules):
        errors = io.StringIO()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "rows")
            path.write_text(text)
            with mock.patch.dict(sys.modules, modules), contextlib.redirect_stderr(errors):
                self.assertEqual(plot_bench.main([str(path), "-o", str(Path(folder, "p.png"))]), 1)
        self.assertIn(sentence, errors.getvalue())
        self.assertEqual(errors.getvalue().count("\n"), 1)

    def test_what_is_wrong_is_one_sentence(self):
        self.expect_failure("rows:2 is no row", json.dumps(case(1, 2, 4)[0]) + "\nnonsense\n")
        self.expect_failure("no rows to draw", "\n")
        self.expect_failure("python3-matplotlib", json.dumps(case(1, 2, 4)[0]), matplotlib=None)


if __name__ == "__main__":
    unittest.main()
