#!/usr/bin/env python3
"""Is the chosen kernel the fastest for each m? Reads what `anyfp8 bench --kernel chosen,A,B --json` measured.

choice_report.py [FILE ...] prints a table for each scheme and shape of the rows of the files, or of standard input:

  best      the chosen kernel's time over that of the fastest single kernel
  step      over its time at m - 1, where that was measured: so give both sides of every border
  16 bit    the time of the 16-bit peer over the chosen kernel's
  bare      for W8A8: over cuBLASLt's FP8 product alone, of activations that were quantised before
  floor     a copy of as many bytes as quantising reads and writes, and then that product, over the product: what a kernel
            that quantises in a pass of its own cannot come below
  quantise  quantising over that copy

and then what misses a limit. It fails where something does.
"""
import argparse
import json
import sys
from collections import defaultdict


def read_cases(lines):
    """{(scheme, n, k): {m: {"chosen": (name, us), "kernels": {name: us}, other name: us}}} of bench rows."""
    cases = defaultdict(lambda: defaultdict(lambda: {"kernels": {}}))
    others = defaultdict(dict)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or row.get("schema_version") != 1:
            raise ValueError(f"line {number} is no row of `anyfp8 bench --json`")
        if row["type"] == "mean" or "refused" in row:
            continue
        n, k, m, us = row["n"], row["k"], row["m"], row["us"]
        if row["type"] != "kernel":
            others[n, k, m][row["name"]] = us
        elif row["asked"] == "chosen":
            cases[row["scheme"], n, k][m]["chosen"] = (row["name"], us)
        else:
            cases[row["scheme"], n, k][m]["kernels"][row["name"]] = us
    if len({scheme for scheme, _, _ in cases}) > 1:
        raise ValueError("peers and parts are those of the first scheme: give the rows of one scheme")
    for (_, n, k), by_m in cases.items():
        for m, case in by_m.items():
            if "chosen" not in case or not case["kernels"]:
                raise ValueError(f"{n} x {k}, m = {m} has no chosen kernel or none to hold it against; "
                                 "run bench with --kernel chosen,NAME,...")
            case.update(others[n, k, m])
    return cases


def ratios_of(case, before):
    """The columns of one m, None where something was not measured; `before` is the case of m - 1 or None."""
    def over(a, b):
        return a / b if a and b else None

    _, us = case["chosen"]
    bare, copy = case.get("cublaslt-fp8"), case.get("copy")
    quantises = bare is not None and case["chosen"][0].endswith("w8a8")
    wide = next((us for name, us in case.items() if name in ("cublaslt-bf16", "cublaslt-f16")), None)
    return {
        "best": over(us, min(case["kernels"].values())),
        "step": over(us, before["chosen"][1]) if before else None,
        "16 bit": over(wide, us),
        "bare": over(us, bare) if quantises else None,
        "floor": over(bare + copy, bare) if quantises and copy else None,
        "quantise": over(case.get("quantise"), copy),
    }


def misses_of(ratios, m, n, k, limits):
    """Sentences, one for each limit that `ratios` miss."""
    bare = limits.bare if m >= 1024 else limits.bare_few if m >= 128 else None
    checks = [("best", limits.best, None), ("step", limits.step, None), ("bare", bare, None)]
    if m >= 1024 or (m <= 16 and n * k >= 50e6):
        checks.append(("16 bit", None, limits.wide))
    if 3 * m * k >= 8e6:
        checks.append(("quantise", limits.quantise, None))
    for name, most, least in checks:
        value = ratios[name]
        if value is None:
            continue
        if most is not None and value > most:
            yield f"{name} {value:.2f}, at most {most}"
        if least is not None and value < least:
            yield f"{name} {value:.2f}, at least {least}"


def report(cases, limits):
    """The text, and how many limits were missed."""
    lines, misses = [], []
    for (scheme, n, k), by_m in sorted(cases.items()):
        lines.append(f"{scheme} {n} x {k}")
        lines.append(f"{'m':>6} {'us':>8} {'chosen':20}" + "".join(f"{name:>9}" for name in
                     ("best", "step", "16 bit", "bare", "floor", "quantise")) + "  fastest")
        for m, case in sorted(by_m.items()):
            ratios = ratios_of(case, by_m.get(m - 1))
            name, us = case["chosen"]
            cells = "".join(f"{value:9.2f}" if value else " " * 9 for value in ratios.values())
            fastest = min(case["kernels"], key=case["kernels"].get)
            lines.append(f"{m:6} {us:8.1f} {name:20}{cells}" + (f"  {fastest}" if fastest != name else ""))
            misses += [f"{n} x {k}, m = {m}: {text}" for text in misses_of(ratios, m, n, k, limits)]
    lines.append(f"{len(misses)} missed:" if misses else "no limit missed")
    return "\n".join(lines + misses), len(misses)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--best", type=float, default=1.05, help="most of `best` (%(default)s)")
    parser.add_argument("--step", type=float, default=1.15, help="most of `step` (%(default)s)")
    parser.add_argument("--wide", type=float, default=1.75,
                        help="least of `16 bit` from m = 1024 on, and to 16 for weights of 50 MB (%(default)s)")
    parser.add_argument("--bare", type=float, default=1.06, help="most of `bare` from m = 1024 on (%(default)s)")
    parser.add_argument("--bare-few", type=float, default=1.25, help="likewise from 128 on (%(default)s)")
    parser.add_argument("--quantise", type=float, default=1.3, help="most of `quantise` from 8 MB on (%(default)s)")
    limits = parser.parse_args()
    try:
        lines = [line for name in limits.files for line in open(name, encoding="utf-8")] if limits.files else sys.stdin
        text, missed = report(read_cases(lines), limits)
    except (OSError, ValueError) as error:
        sys.exit(f"choice_report: {error}")
    print(text)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
