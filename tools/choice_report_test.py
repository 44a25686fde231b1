#!/usr/bin/env python3
"""What choice_report.py makes of rows, and what it calls a miss."""
import argparse
import json
import unittest

import choice_report

LIMITS = argparse.Namespace(best=1.05, step=1.15, wide=1.75, bare=1.06, bare_few=1.25, quantise=1.3)


def row(kind, name, m, us, **more):
    return json.dumps({"schema_version": 1, "type": kind, "name": name, "n": 4096, "k": 4096, "m": m, "us": us, **more})


def kernel(name, m, us, asked=None):
    return row("kernel", name, m, us, scheme="w8a8-block", asked=asked or name)


def case(m, chosen, **kernels):
    name, us = chosen
    return [kernel(name, m, us, "chosen"), *(kernel(other, m, other_us) for other, other_us in kernels.items())]


def misses(lines):
    text, count = choice_report.report(choice_report.read_cases(lines), LIMITS)
    found = text.splitlines()[-count:] if count else []
    return found


class ChoiceReportTest(unittest.TestCase):
    def test_the_fastest_kernel_with_even_steps_misses_nothing(self):
        lines = case(127, ("a_w8a16", 10), a_w8a16=10, b_w8a8=11) + case(128, ("b_w8a8", 11), a_w8a16=12, b_w8a8=11)
        self.assertEqual(misses(lines), [])

    def test_a_slower_choice_and_a_step_are_misses(self):
        lines = case(127, ("a_w8a16", 10), a_w8a16=10) + case(128, ("b_w8a8", 12), a_w8a16=11, b_w8a8=12)
        self.assertEqual(misses(lines), ["4096 x 4096, m = 128: best 1.09, at most 1.05",
                                         "4096 x 4096, m = 128: step 1.20, at most 1.15"])

    def test_without_its_neighbour_an_m_has_no_step(self):
        self.assertEqual(misses(case(64, ("a", 10), a=10) + case(128, ("a", 20), a=20)), [])

    def test_parts_of_w8a8_are_held_to_their_limits(self):
        parts = [row("peer", "cublaslt-fp8", 1024, 10), row("part", "copy", 1024, 2), row("part", "quantise", 1024, 3),
                 row("peer", "cublaslt-bf16", 1024, 20)]
        self.assertEqual(misses(case(1024, ("b_w8a8", 13), b_w8a8=13) + parts),
                         ["4096 x 4096, m = 1024: bare 1.30, at most 1.06",
                          "4096 x 4096, m = 1024: 16 bit 1.54, at least 1.75",
                          "4096 x 4096, m = 1024: quantise 1.50, at most 1.3"])
        ratios = choice_report.ratios_of({"chosen": ("b_w8a8", 13), "kernels": {"b_w8a8": 13}, "cublaslt-fp8": 10,
                                          "copy": 2}, None)
        self.assertAlmostEqual(ratios["floor"], 1.2)
        self.assertIsNone(ratios["step"])

    def test_the_parts_of_w8a8_do_not_count_for_a_kernel_that_keeps_x(self):
        self.assertEqual(misses(case(1024, ("a_w8a16", 13), a_w8a16=13) + [row("peer", "cublaslt-fp8", 1024, 10)]), [])

    def test_rows_that_cannot_answer_are_refused(self):
        for lines in (["nonsense"], [kernel("a", 1, 1)], [kernel("a", 1, 1, "chosen")]):
            with self.assertRaises(ValueError):
                choice_report.read_cases(lines)


if __name__ == "__main__":
    unittest.main()
