#!/usr/bin/env python3
"""Listings with and without a sum stored in its loop; and an object without any loop."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import check_spills  # noqa: E402


def listing(inside=(), behind=(), name="tile<1>"):
    """A loop of 4 multiply-adds and 36 other instructions, with `inside` in it and `behind` after it."""
    loop = ["vmovups (%rdi),%zmm0"]
    loop += [f"vfmadd231ps 0x{i}0(%rsi),%zmm0,%zmm{i + 1}" for i in range(4)]
    loop += ["vpshufb %zmm7,%zmm8,%zmm9"] * 33
    loop += [*inside, "add    $0x40,%rdi", f"jne    10 <{name}+0x10>"]
    lines = ["vpxor  %xmm1,%xmm1,%xmm1", *loop, *behind, "ret"]
    return "\n".join([f"0000000000000000 <{name}>:", *(f"  {16 * i:x}:\t{text}" for i, text in enumerate(lines))])


ARM = """0000000000000000 <void direct_tile<4>(int)>:
   0:\tmovi\tv2.4s, #0x0
   4:\tldr\ts28, [x0], #4
   8:\tfmla\tv5.4s, v8.4s, v28.s[0]
   c:\tstr\tq5, [sp, #64]
  10:\tb.ne\t4 <void direct_tile<4>(int)+0x4>  // b.any
  14:\tret"""

STORE = "vmovaps %zmm3,0x40(%rsp)"
# What GCC made of the AVX2 tile of one token: a sum that lives on the stack.
SUM_IN_MEMORY = ["vfmadd213ps -0x58(%rsp),%ymm0,%ymm13", "vmovaps %ymm13,-0x58(%rsp)"]


class Spills(unittest.TestCase):
    def test_a_store_to_the_stack_in_the_loop_is_found(self):
        for inside in [STORE], SUM_IN_MEMORY:
            found, seen = check_spills.examine(listing(inside))
            self.assertEqual(seen, 1)
            self.assertEqual(len(found), 1)
            self.assertIn("stores 1 vectors to the stack", found[0])

    def test_on_arm_too(self):
        found, seen = check_spills.examine(ARM)
        self.assertEqual((len(found), seen), (1, 1))
        self.assertIn("direct_tile<4>", found[0])

    def test_one_behind_the_loop_is_none(self):
        self.assertEqual(check_spills.examine(listing(behind=[STORE])), ([], 1))

    def test_a_loop_with_a_call_is_not_looked_at(self):
        self.assertEqual(check_spills.examine(listing([STORE, "call   200 <memcpy>"])), ([], 0))

    def test_partial_vectors_go_over_the_stack(self):
        self.assertEqual(check_spills.examine(listing([STORE], name="silu_times(float*)")), ([], 0))

    def test_every_tile_has_a_loop_that_was_looked_at(self):
        name = "void buffered_tile<Op, 2>(int)"
        self.assertEqual(check_spills.examine(listing(name=name)), ([], 1))
        # One is not seen, one may store its sums under another name of the stack.
        for inside, loops in (["call   200 <memcpy>"], 0), (["vmovaps %zmm3,(%rax,%rcx,1)"], 1):
            found, seen = check_spills.examine(listing(inside, name=name))
            self.assertEqual((len(found), seen), (1, loops))
            self.assertIn("buffered_tile<Op, 2>", found[0])

    def test_the_tile_that_fills_a_buffer_may_store_there_and_not_to_the_stack(self):
        name, buffer = "void direct_tile<Op, (DType)4, 6, 2, true>(Task const&)", "vmovdqu64 %zmm3,(%rax)"
        self.assertEqual(check_spills.examine(listing([buffer], name=name)), ([], 1))
        self.assertEqual(len(check_spills.examine(listing([buffer], name=name.replace("true", "false")))[0]), 1)
        found, _ = check_spills.examine(listing([buffer, STORE], name=name))
        self.assertEqual(len(found), 1)
        self.assertIn("stores 1 vectors to the stack", found[0])

    def test_nothing_to_look_at_is_a_failure(self):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "empty.c"
            source.write_text("int zero(void) { return 0; }\n")
            subprocess.run(["cc", "-c", str(source), "-o", f"{folder}/empty.o"], check=True)
            self.assertEqual(check_spills.main([f"{folder}/empty.o"]), 1)


if __name__ == "__main__":
    unittest.main()
