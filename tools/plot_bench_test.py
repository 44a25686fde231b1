#!/usr/bin/env python3
"""What plot_bench.py makes of rows, and its sentences; draws only where there is matplotlib."""
import contextlib
import io
import json
import math
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import plot_bench


def row(kind, name, m, us, shape=(64, 64), **more):
    n, k = shape
    flops = 2 * m * n * k
    return {"schema_version": 1, "type": kind, "name": name, "activations": "bf16", "device": "CPU", "isa": "avx2",
            "threads": 2, "command": "anyfp8 bench", "n": n, "k": k, "m": m, "us": us, "gflop_per_s": flops / us * 1e-3, **more}


def case(m, kernel_us, peer_us, **more):
    return [row("kernel", "ours", m, kernel_us, scheme="channel", **more),
            row("peer", "theirs", m, peer_us, **more), row("read", "read", m, 1, **more),
            {**row("peak", "dot", m, 1, **more), "gflop_per_s": 100}]


class PlotBenchTest(unittest.TestCase):
    def test_few_tokens_are_read_limited_and_many_compute_limited(self):
        # A pass over the weights takes 1 us, a token's arithmetic 0.08 us.
        reading, computing, kernels, peak = plot_bench.summarize(case(1, 1.25, 4) + case(100, 16, 8))
        self.assertEqual({label: list(by_m) for label, by_m in reading.items()}, {"ours": [1], "theirs": [1]})
        self.assertAlmostEqual(reading["ours"][1], 0.8)
        self.assertAlmostEqual(reading["theirs"][1], 0.25)
        self.assertAlmostEqual(computing["theirs"][100], 2 * 100 * 64 * 64 / 8 * 1e-3)
        self.assertEqual((kernels, peak["gflop_per_s"], peak["name"]), (["ours"], 100, "dot"))

    def test_without_a_peak_the_time_of_reading_divides_the_sides(self):
        rows = [row for row in case(1, 1.25, 4) + case(100, 16, 8) if row["type"] != "peak"]
        reading, computing, _, peak = plot_bench.summarize(rows)
        self.assertEqual((list(reading["ours"]), list(computing["ours"]), peak), ([1], [100], None))

    def test_a_kernel_of_wider_weights_is_measured_against_the_same_reading(self):
        wide = row("kernel", "ours", 1, 4, scheme="bf16", of_read=0.5)
        self.assertAlmostEqual(plot_bench.summarize([*case(1, 2, 4), wide])[0]["ours, bf16"][1], 0.25)

    def test_shapes_are_averaged_geometrically(self):
        rows = case(1, 2, 4) + case(1, 8, 16, shape=(64, 128))
        self.assertAlmostEqual(plot_bench.summarize(rows)[0]["ours"][1], 0.25)

    def test_a_peer_that_could_not_run_has_no_bar(self):
        rows = case(1, 2, 4)
        rows[1] = {**rows[1], "refused": "no"}
        del rows[1]["us"]
        self.assertEqual(list(plot_bench.summarize(rows)[0]), ["ours"])

    def test_times_are_by_shape_with_the_roofline_of_the_first_scheme(self):
        rows = (case(1, 4, 8) + case(16, 5, 8) + case(1, 40, 80, shape=(64, 128))
                + [row("kernel", "ours", 1, 6, scheme="block", of_roof=0.9), row("kernel", "other", 1, 8, scheme="channel")])
        for line in rows:
            if line["type"] == "kernel" and line["scheme"] == "channel":
                line["of_roof"] = 2 / line["us"]
        shapes, kernels = plot_bench.times_by_shape(rows)
        self.assertEqual(kernels, ["ours, channel", "ours, block", "other, channel"])
        times, roof = shapes[64, 64]
        self.assertEqual(times, {"ours, channel": {1: 4, 16: 5}, "theirs": {1: 8, 16: 8}, "ours, block": {1: 6},
                                 "other, channel": {1: 8}})
        self.assertEqual(list(roof), [1, 16])
        for us in roof.values():
            self.assertAlmostEqual(us, 2)
        self.assertEqual(shapes[64, 128][0], {"ours, channel": {1: 40}, "theirs": {1: 80}})

    def test_times_of_peers_alone_are_refused_and_a_missing_roofline_is_not_drawn(self):
        with self.assertRaisesRegex(ValueError, "no row of a kernel"):
            plot_bench.times_by_shape(case(1, 2, 4)[1:])
        self.assertEqual(plot_bench.times_by_shape(case(1, 2, 4))[0][64, 64][1], {})

    def test_a_picture_of_times_is_drawn(self):
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            self.skipTest("there is no matplotlib")
        rows = case(1, 4, 8) + case(16, 5, 8) + case(1, 40, 80, shape=(64, 128))
        rows[0]["of_roof"] = 0.5
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "rows").write_text("\n".join(map(json.dumps, rows)))
            picture = Path(folder, "p.svg")
            self.assertEqual(plot_bench.main([str(Path(folder, "rows")), "--times", "-o", str(picture)]), 0)
            for text in ("64 x 128", "roofline"):
                self.assertIn(text, picture.read_text())

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
        good = case(1, 2, 4)
        self.expect_failure("rows:2 is no row", json.dumps(good[0]) + "\nnonsense\n")
        self.expect_failure("is no row", "[" * 100_000)
        self.expect_failure("no rows to draw", "\n")
        self.expect_failure("of type read are missing", json.dumps(good[0]))
        self.expect_failure("no row of a kernel", json.dumps(good[2]))
        self.expect_failure("python3-matplotlib", "\n".join(map(json.dumps, good)), matplotlib=None)

    def test_a_row_without_what_is_drawn_is_one_sentence(self):
        for number, source in enumerate(case(1, 2, 4)):
            for key in source:
                if key == "gflop_per_s" and source["type"] == "read":
                    continue
                for wrong in ({}, {key: 0}, {key: None}, {key: [1]}, {key: -1}, {key: math.nan}, {key: 10**400}):
                    with self.subTest(type=source["type"], key=key, wrong=wrong):
                        rows = case(1, 2, 4)
                        rows[number] = {**{k: v for k, v in source.items() if k != key}, **wrong}
                        self.expect_failure(f"rows:{number + 1} ", "\n".join(map(json.dumps, rows)))

    def test_rows_of_different_runs_are_not_mixed(self):
        good = case(1, 2, 4)
        for key, other in (("device", "GPU"), ("threads", 3), ("isa", "neon"), ("activations", "f32")):
            with self.subTest(key):
                rows = good + [{**line, key: other} for line in case(2, 2, 4)]
                self.expect_failure("different runs", "\n".join(map(json.dumps, rows)))
        self.expect_failure("rows:3; give the rows of one run", "\n".join(map(json.dumps, good * 2)))

    def test_a_picture_is_drawn(self):
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            self.skipTest("there is no matplotlib")
        for rows in (case(1, 1.25, 4) + case(100, 16, 8), case(1, 1.25, 4)[:3]):
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, "rows").write_text("\n".join(map(json.dumps, rows)))
                picture = Path(folder, "p.svg")
                self.assertEqual(plot_bench.main([str(Path(folder, "rows")), "-o", str(picture)]), 0)
                self.assertIn("time to read the channel weights once / time", picture.read_text())


if __name__ == "__main__":
    unittest.main()
