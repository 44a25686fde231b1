#!/usr/bin/env python3
"""Looks at the machine code of the CPU kernels: no loop of multiply-adds may store a vector to the stack.

GCC keeps an array of sums in memory, and stores it in every step, when one loop over it is not unrolled; that
halves a kernel's speed and changes no result, so nothing else would notice.

    tools/check_spills.py OBJECT...     exit code 1 and a line for each such loop
"""

import re
import subprocess
import sys

MULTIPLY_ADD = re.compile(r"\b(vfmadd\w*|vdpbf16ps|tdpbf16ps|fmla|bfdot)\b")
# x86 AT&T: vmovaps %zmm3,0x40(%rsp); Arm: str q3, [sp, #64].
STACK_STORE = re.compile(r"^vmov\w+\s+%[xyz]mm\d+,.*\(%r[sb]p|^(str|stp|stur)\s+q\d+.*\[(sp|x29)")
JUMP = re.compile(r"^(?:j\w+|b|b\.\w+|cbn?z|tbn?z)\s.*?\b([0-9a-f]+)\s*<")
FUNCTION = re.compile(r"^[0-9a-f]+ <(.*)>:$")
INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(.*?)\s*$")
LEAST_MULTIPLY_ADDS = 4  # of a hot loop; a tail has fewer


def functions(lines):
    """(name, [(address, text)]) of each function of a disassembly."""
    name, body = None, []
    for line in lines:
        if match := FUNCTION.match(line):
            if name:
                yield name, body
            name, body = match.group(1), []
        elif match := INSTRUCTION.match(line):
            body.append((int(match.group(1), 16), match.group(2)))
    if name:
        yield name, body


def innermost_loops(body):
    """Instruction ranges between a backward jump and its target that hold no other such range."""
    index = {address: i for i, (address, _) in enumerate(body)}
    loops = []
    for i, (_, text) in enumerate(body):
        match = JUMP.match(text)
        begin = index.get(int(match.group(1), 16)) if match else None
        if begin is not None and begin <= i:
            loops.append((begin, i))
    for begin, end in loops:
        if not any((b, e) != (begin, end) and begin <= b and e <= end for b, e in loops):
            yield [text for _, text in body[begin : end + 1]]


def spills(disassembly):
    """(function, multiply-adds, stores) of each loop that spills; and how many loops were looked at."""
    found, seen = [], 0
    for name, body in functions(disassembly.splitlines()):
        for loop in innermost_loops(body):
            multiply_adds = sum(bool(MULTIPLY_ADD.search(text)) for text in loop)
            if multiply_adds < LEAST_MULTIPLY_ADDS or 5 * multiply_adds < len(loop):
                continue
            seen += 1
            stores = sum(bool(STACK_STORE.search(text)) for text in loop)
            if stores:
                found.append((name, multiply_adds, stores))
    return found, seen


def main(objects):
    if not objects:
        print(__doc__, file=sys.stderr)
        return 2
    bad = seen = 0
    for path in objects:
        command = ["objdump", "-d", "-C", "--no-show-raw-insn", path]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        found, loops = spills(result.stdout)
        seen += loops
        for name, multiply_adds, stores in found:
            bad += 1
            print(f"{path}: {name}: a loop of {multiply_adds} multiply-adds stores {stores} vectors to the stack")
    if seen == 0:
        print("no loop of multiply-adds was found, so nothing was checked", file=sys.stderr)
        return 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
