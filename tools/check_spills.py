#!/usr/bin/env python3
"""Looks at the machine code of the CPU kernels: no loop of multiply-adds may store a vector to the stack.

GCC keeps an array of sums in memory, and stores it in every step, when one loop over it is not unrolled; that
halves a kernel's speed and changes no result, so nothing else would notice.

    tools/check_spills.py OBJECT...     exit code 1 and a line for each such loop, and for each tile without a loop
                                        to look at; OBJDUMP names the program that reads the objects
"""

import os
import re
import subprocess
import sys

MULTIPLY_ADD = re.compile(r"\b(vfn?madd\w*|mulps|vdpbf16ps|tdpbf16ps|fmla|bfdot)\b")  # mulps: SSE, in two
# x86 AT&T: vmovaps %zmm3,0x40(%rsp); Arm: str q3, [sp, #64].
STORE = re.compile(r"^v?mov\w+\s+%[xyz]mm\d+,.*\(|^(str|stp|stur)\s+q\d+")
STACK = re.compile(r"\(%r[sb]p|\[(sp|x29)")
CALL = re.compile(r"^(callq?|blr?)\s")
JUMP = re.compile(r"^(?:j\w+|b|b\.\w+|cbn?z|tbn?z)\s.*?\b([0-9a-f]+)\s*<")
FUNCTION = re.compile(r"^[0-9a-f]+ <(.*)>:$")
INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(.*?)\s*$")

# Templates whose every instantiation must have a loop that was looked at. (Those of AMX are none of them: the
# source itself names the registers of their sums.)
TILE = re.compile(r"\b(direct_tile|step_tile|woven_tile|buffered_tile|multiply_tile|dot_direct|score|weigh)<")
# The tile that fills a buffer stores what it decodes between its products.
FILLS = re.compile(r"\bdirect_tile<.*, true>\(")
# These take the last, partial vector of a row over the stack, and keep no tile of sums.
PARTIAL_VECTORS = re.compile(r"\b(rms_norm|norm_and_rotate|silu_times|sum_exp|soften|attend)\(")


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


def examine(disassembly):
    """A sentence for each loop that spills and each tile without a loop; and how many loops were looked at."""
    found, seen = [], 0
    for name, body in functions(disassembly.splitlines()):
        if PARTIAL_VECTORS.search(name):
            continue
        only_sums = False
        for loop in innermost_loops(body):
            multiply_adds = sum(bool(MULTIPLY_ADD.search(text)) for text in loop)
            # A call is to memcpy, for the last columns; around it every register is saved.
            if multiply_adds == 0 or any(CALL.match(text) for text in loop):
                continue
            seen += 1
            stores = [text for text in loop if STORE.match(text)]
            spills = sum(bool(STACK.search(text)) for text in stores)
            # Else one that stores elsewhere is a way around the loop of products, from one scale to the next.
            only_sums |= len(stores) == spills or FILLS.search(name) is not None
            if spills:
                found.append(f"{name}: a loop of {multiply_adds} multiply-adds stores {spills} vectors to the stack")
        if TILE.search(name) and not only_sums:
            found.append(f"{name}: no loop of multiply-adds that keeps its sums was found, so it was not checked")
    return found, seen


def main(objects):
    if not objects:
        print(__doc__, file=sys.stderr)
        return 2
    bad = seen = 0
    for path in objects:
        command = [os.environ.get("OBJDUMP", "objdump"), "-d", "-C", "--no-show-raw-insn", path]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        found, loops = examine(result.stdout)
        seen += loops
        bad += len(found)
        for sentence in found:
            print(f"{path}: {sentence}")
    if seen == 0:
        print("no loop of multiply-adds was found, so nothing was checked", file=sys.stderr)
        return 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
