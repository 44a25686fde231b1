#!/usr/bin/env python3
"""Two listings, one with a sum stored in its loop; and an object without any loop."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import check_spills  # noqa: E402

def listing(spilling):
    loop = ["  10:\tvmovups (%rdi),%zmm0"]
    loop += [f"  {0x20 + i:x}:\tvfmadd231ps 0x{i}0(%rsi),%zmm0,%zmm{i + 1}" for i in range(6)]
    if spilling:
        loop.append("  30:\tvmovaps %zmm3,0x40(%rsp)")
    loop += ["  38:\tadd    $0x40,%rdi", "  3c:\tjne    10 <tile+0x10>", "  40:\tvmovaps %zmm3,0x40(%rsp)", "  48:\tret"]
    return "\n".join(["0000000000000000 <tile>:", "   0:\tvpxor  %xmm1,%xmm1,%xmm1", *loop])


class Spills(unittest.TestCase):
    def test_a_store_to_the_stack_in_the_loop_is_found(self):
        self.assertEqual(check_spills.spills(listing(True)), ([("tile", 6, 1)], 1))

    def test_one_behind_the_loop_is_none(self):
        self.assertEqual(check_spills.spills(listing(False)), ([], 1))

    def test_nothing_to_look_at_is_a_failure(self):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "empty.c"
            source.write_text("int zero(void) { return 0; }\n")
            subprocess.run(["cc", "-c", str(source), "-o", f"{folder}/empty.o"], check=True)
            self.assertEqual(check_spills.main([f"{folder}/empty.o"]), 1)


if __name__ == "__main__":
    unittest.main()
