#!/usr/bin/env python3
"""Writes docs/scaling.md from what `anyfp8 bench --tp --json` measured, so that its figures are those of the rows.

make_scaling.py [--check] FILE... reads rows of bench/results; --check writes nothing and ends with 1 where docs/scaling.md
is not what the rows give.
"""
import argparse
import json
import math
import statistics
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "scaling.md"

# hidden, heads, kv heads, head size, ffn, layers: Llama 3.1's.
MODELS = {
    "8B": (4096, 32, 8, 128, 14336, 32),
    "70B": (8192, 64, 8, 128, 28672, 80),
    "405B": (16384, 128, 8, 128, 53248, 126),
}
TOKENS = (1, 64, 4096)

# What is assumed of what was not measured; each stands in the page's text.
HOST_GPUS = 8
NETWORK_GB_PER_S = 50  # one 400 Gb/s adapter a GPU
NETWORK_US = 15  # a further step between hosts
SCHEME = "channel"  # whose products are extrapolated


def rows_of(files):
    rows = []
    for file in files:
        for line in Path(file).read_text().splitlines():
            row = json.loads(line)
            if row.get("type") in ("all_reduce", "tp_pair", "tp_overlap"):
                rows.append(row)
    if not rows:
        raise ValueError("no row of `anyfp8 bench --tp --json` in these files")
    return rows


def fit_line(points):
    """(a, b) of y = a + b x, b > 0 and a >= 0, with the least squares of relative errors."""
    weights = [(x, y, 1 / y**2) for x, y in points]
    s = sum(w for _, _, w in weights)
    sx, sy = sum(w * x for x, _, w in weights), sum(w * y for _, y, w in weights)
    sxx, sxy = sum(w * x * x for x, _, w in weights), sum(w * x * y for x, y, w in weights)
    b = (s * sxy - sx * sy) / (s * sxx - sx * sx)
    a = (sy - b * sx) / s
    if a < 0:
        return 0.0, sxy / sxx
    return a, b


def worst(points, a, b):
    return max(abs(a + b * x - y) / y for x, y in points)


def all_reduces(rows):
    """The median time in us by (bytes, ranks): every run of the bench measures them."""
    times = defaultdict(list)
    for row in rows:
        if row["type"] == "all_reduce":
            times[row["bytes"], row["ranks"]].append(row["us"])
    return {key: statistics.median(times[key]) for key in sorted(times)}


class Model:
    """Times in us of one device and engine."""

    def __init__(self, rows):
        self.reduces = [(size, us) for (size, ranks), us in all_reduces(rows).items() if ranks == 2]
        pairs = [row for row in rows if row["type"] == "tp_pair" and row["scheme"] == SCHEME]
        self.products = {}  # by m: a, b, worst error; us = a + b * outputs * inputs of both layers
        for m in sorted({row["m"] for row in pairs}):
            points = []
            for row in pairs:
                if row["m"] == m:
                    area = 2 * row["n"] * row["k"]
                    points += [(area, row["one_us"]), (area / row["ranks"], row["gemm_us"])]
            a, b = fit_line(points)
            self.products[m] = a, b, worst(points, a, b)

    def product_us(self, m, area):
        a, b, _ = self.products[m]
        return a + b * area

    def two_us(self, size):
        """An all-reduce of two ranks: between what was measured, on a line of logarithms; beyond, at the last rate."""
        first, last = self.reduces[0], self.reduces[-1]
        if size <= first[0]:
            return first[1]
        if size >= last[0]:
            return last[1] * size / last[0]
        for (x0, y0), (x1, y1) in zip(self.reduces, self.reduces[1:]):
            if size <= x1:
                part = math.log(size / x0) / math.log(x1 / x0)
                return math.exp(math.log(y0) + part * math.log(y1 / y0))
        raise AssertionError

    def reduce_us(self, size, ranks):
        if ranks == 1:
            return 0.0
        local = min(ranks, HOST_GPUS)
        latency = self.reduces[0][1]
        # Bytes on the links: 2 (N - 1) / N of them, of two ranks 1. Steps: one for each doubling.
        us = latency * math.log2(local) + max(0.0, self.two_us(size) - latency) * 2 * (local - 1) / local
        hosts = ranks // local
        if hosts > 1:
            share = size / local
            us += NETWORK_US * 2 * math.log2(hosts) + 2 * (hosts - 1) / hosts * share / (NETWORK_GB_PER_S * 1e3)
        return us

    def layer_us(self, shape, m, ranks):
        """One layer of a model: (products, all-reduces)."""
        hidden, heads, kv_heads, head, ffn, _ = shape
        attention = hidden * (heads + 2 * kv_heads) * head + hidden * heads * head
        mlp = 3 * hidden * ffn
        products = sum(self.product_us(m, area / ranks) for area in (attention, mlp))
        return products, 2 * self.reduce_us(m * hidden * 2, ranks)


def table(head, lines):
    out = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return out + ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]


def number(value):
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def size_text(size):
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


def mlp(row):
    return f"{row['k']} -> {row['n']} -> {row['k']}"


def measured_pairs(rows):
    lines = []
    for row in rows:
        if row["type"] == "tp_pair" and row["ranks"] > 1:
            lines.append(
                [
                    mlp(row),
                    row["scheme"],
                    row["ranks"],
                    row["m"],
                    number(row["one_us"]),
                    number(row["gemm_us"]),
                    number(row["all_reduce_us"]),
                    number(row["us"]),
                    f"{row['speedup']:.2f}",
                    f"{row['of_expected']:.2f}",
                ]
            )
    return table(
        ["MLP", "scheme", "ranks", "m", "one rank, us", "products, us", "all-reduce, us", "pair, us", "x one", "of one/N + all-reduce"],
        lines,
    )


def page(rows):
    groups = defaultdict(list)
    for row in rows:
        groups[row["engine"], row["device"]].append(row)
    out = [
        "# Tensor parallelism: what it takes and gives",
        "",
        "Written by `tools/make_scaling.py` from the rows of `anyfp8 bench --tp --json` in bench/results; do not edit.",
        "A layer pair is a column-parallel and a row-parallel layer (docs: `anyfp8/parallel/parallel_linear.h`), captured",
        "in one CUDA graph on GPUs. One rank is the same pair unsharded, in the same run. All times are medians, of the",
        "slowest rank.",
    ]
    for (engine, device), own in sorted(groups.items(), key=lambda item: item[0][0] != "nccl"):
        out += ["", f"## Measured: {device}, {'NCCL' if engine == 'nccl' else 'MPI'}", ""]
        if engine == "mpi":
            cores = max(row["cores"] for row in own)
            out += [
                f"Processes of one machine with {cores} cores, beside one rank with as many threads as each of them has. More",
                "processes than cores take turns.",
                "",
            ]
        out += measured_pairs(own)
        if reduces := all_reduces(own):
            lines = []
            for (size, ranks), us in reduces.items():
                lines.append([size_text(size), ranks, number(us), number(2 * (ranks - 1) / ranks * size / us / 1e3)])
            out += ["", *table(["all-reduce of", "ranks", "us", "GB/s on the links"], lines)]
        overlaps = [row for row in own if row["type"] == "tp_overlap"]
        if overlaps:
            out += [
                "",
                "The row-parallel layer in parts of m, whose sums travel while the next part is multiplied "
                "(`anyfp8/parallel/overlap_plan.h` chooses):",
                "",
                *table(
                    ["MLP", "scheme", "m", "parts", "pair, us"],
                    [[mlp(row), row["scheme"], row["m"], row["parts"], number(row["us"])] for row in overlaps],
                ),
            ]
    gpu = [row for (engine, _), own in groups.items() if engine == "nccl" for row in own]
    if gpu:
        out += extrapolation(gpu)
    commands = sorted({row["command"] for row in rows})
    out += ["", "## The commands", "", *[f"    {command}" for command in commands], ""]
    return "\n".join(out)


def extrapolation(rows):
    model = Model(rows)
    out = [
        "",
        "## Extrapolated",
        "",
        "Nothing here was measured beyond two GPUs. The model:",
        "",
        f"- Products of m tokens take a + b · outputs · inputs, fitted for each m to the rows of scheme {SCHEME} above, one GPU",
        "  and two:",
        "",
        *table(
            ["m", "a, us", "b, us per million weights", "worst error"],
            [[m, number(a), f"{b * 1e6:.3f}", f"{error:.0%}"] for m, (a, b, error) in model.products.items()],
        ),
        "",
        "- An all-reduce of two ranks takes what was measured, between sizes on a line of logarithms. Of N ranks of a host its",
        f"  shortest time grows by log2 N, and its bytes by 2 (N - 1) / N: assumed, for links that are as fast between all",
        f"  {HOST_GPUS} GPUs (NVSwitch), without NVLink multicast.",
        f"- Hosts of {HOST_GPUS} reduce inside first; then each GPU sends its part of the sums by an adapter of its own at",
        f"  {NETWORK_GB_PER_S} GB/s, {NETWORK_US} us a step: assumed. This is the reason to keep tensor parallelism inside of a host.",
        "- A layer is two pairs, q/k/v with o and gate/up with down. Attention itself, norms and the head are not in it.",
        "  Nothing is overlapped: what that gives at large m is in the tables above.",
    ]
    for name, shape in MODELS.items():
        weights = shape[5] * (shape[0] * (shape[1] + 2 * shape[2]) * shape[3] + shape[0] * shape[1] * shape[3] + 3 * shape[0] * shape[4])
        out += ["", f"### {name}: {weights / 1e9:.1f} GB of FP8 in linear layers", ""]
        lines = []
        for m in TOKENS:
            if m not in model.products:
                continue
            one = sum(model.layer_us(shape, m, 1))
            for ranks in (1, 2, 4, 8, 16, 32):
                products, reduces = model.layer_us(shape, m, ranks)
                where = f"{ranks} GPU{'s' if ranks > 1 else ''}" + (f", {ranks // HOST_GPUS} hosts" if ranks > HOST_GPUS else "")
                lines.append(
                    [m, where, number(products), number(reduces), number(products + reduces), f"{one / (products + reduces):.2f}", f"{one / (products + reduces) / ranks:.0%}"]
                )
        out += table(["m", "on", "products, us a layer", "all-reduces, us", "together", "x one GPU", "of N x"], lines)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    try:
        text = page(rows_of(arguments.files))
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"make_scaling: {error!r}")
    if not arguments.check:
        PAGE.write_text(text)
    elif not PAGE.is_file() or PAGE.read_text() != text:
        sys.exit(f"make_scaling: {PAGE.relative_to(ROOT)} is not what the rows give; run tools/make_scaling.py")


if __name__ == "__main__":
    main()
