#!/usr/bin/env python3
"""Every CUDA object has the machine code and the PTX that it should, so that no card is left without a kernel.

cuda_code_test.py OBJECT... reads the .cu.o files among them. The toolkit's packages need not bring cuobjdump, so this
reads the "fat binary" in them itself: a header (magic, header bytes, bytes of what follows), then for each code an
entry (kind, header bytes, bytes of the code, architecture at byte 28).
"""
import re
import struct
import sys

MAGIC = struct.pack("<I", 0xBA55ED50)
KINDS = {1: "compute", 2: "sm"}  # PTX, machine code
FAMILIES = {75: {75}, 80: {80, 120}, 90: {90, 100}}  # the first card: machine code


def codes_of(data):
    found, begin = set(), data.find(MAGIC)
    while begin >= 0:
        _, _, header, size = struct.unpack_from("<IHHQ", data, begin)
        at, end = begin + header, begin + header + size
        while at < end:
            kind, _, header, size = struct.unpack_from("<HHIQ", data, at)
            (architecture,) = struct.unpack_from("<I", data, at + 28)
            found.add(f"{KINDS.get(kind, kind)}_{architecture}")
            at += header + size
        begin = data.find(MAGIC, end)
    return found


def main(paths):
    objects = [path for path in paths if path.endswith(".cu.o")]
    if not objects:
        return ["no .cu.o file was given"]
    wrong = []
    for path in objects:
        own = re.search(r"_sm(\d+)(a?)\.cu\.o$", path)
        if own and own[2]:
            expected = {f"sm_{own[1]}"}  # Hopper's own code: no other card could use PTX of it
        elif own and own[1] == "89":
            expected = {"sm_89", "sm_90", "compute_90", "sm_100", "sm_120"}  # cards that convert to FP8
        else:
            families = [int(own[1])] if own else FAMILIES
            expected = {f"compute_{family}" for family in families}
            expected |= {f"sm_{card}" for family in families for card in FAMILIES[family]}
        with open(path, "rb") as file:
            found = codes_of(file.read())
        if found != expected:
            wrong.append(f"{path} has {sorted(found)}, it should have {sorted(expected)}")
    print(f"{len(objects)} objects read")
    return wrong


if __name__ == "__main__":
    sys.exit("\n".join(main(sys.argv[1:])) or 0)
