#!/usr/bin/env python3
"""Draws what `anyfp8 bench --json` measured.

plot_bench.py [FILE ...] -o PICTURE reads the rows of the files, or of standard input, and writes one picture (.png, .svg
or .pdf). Values are geometric means over the shapes. Left stand the token counts m that reading the weights limits, as the
time to read the FP8 weights once in parts of the time taken; right those that arithmetic limits, in GFLOP/s. The dashed
line is what the machine itself gave in the same run.
"""
import argparse
import json
import math
import statistics
import sys
import textwrap
from collections import defaultdict

# Told apart by people who do not see all colours, too (Okabe and Ito).
KERNEL_COLORS = ["#0072B2", "#56B4E9", "#009E73", "#004166", "#7FCDBB"]
PEER_COLORS = ["#E69F00", "#D55E00", "#CC79A7", "#999999"]


def read_rows(texts):
    """The rows of `bench --json`; ValueError with a sentence for anything else."""
    rows = []
    for name, text in texts:
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict) or row.get("schema_version") != 1 or "type" not in row:
                raise ValueError(f"{name}:{number} is no row of `anyfp8 bench --json`")
            rows.append(row)
    return rows


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def summarize(rows):
    """What one panel row shows, of rows with the same activations:
    (reading, computing), each {label: {m: value}} and the labels of kernels; then the peak in GFLOP/s and its name."""
    limits = {(row["type"], row["n"], row["k"], row["m"]): row for row in rows if row["type"] in ("read", "peak")}
    schemes = {row["scheme"] for row in rows if row["type"] == "kernel"}
    parts, speeds, kernels = defaultdict(lambda: defaultdict(list)), defaultdict(lambda: defaultdict(list)), []
    read_limited = defaultdict(list)
    for row in rows:
        if row["type"] not in ("kernel", "peer") or "us" not in row:
            continue
        case = (row["n"], row["k"], row["m"])
        if ("read", *case) not in limits or ("peak", *case) not in limits:
            raise ValueError("the rows of the machine's limits are missing; give the whole output of `anyfp8 bench --json`")
        read, peak = limits["read", *case], limits["peak", *case]
        label = row["name"]
        if row["type"] == "kernel":
            label += f", {row['scheme']}" if len(schemes) > 1 else ""
            kernels += [label] if label not in kernels else []
        parts[label][row["m"]].append(row["of_read"] if row["type"] == "kernel" else read["us"] / row["us"])
        speeds[label][row["m"]].append(row["gflop_per_s"])
        flops = row["gflop_per_s"] * row["us"]
        read_limited[row["m"]].append(read["us"] * peak["gflop_per_s"] / flops)
    if not parts:
        raise ValueError("no row of a kernel or peer is among the input")
    peaks = [row for row in limits.values() if row["type"] == "peak"]

    def chosen(values, wanted):
        means = {label: {m: geometric_mean(v) for m, v in by_m.items() if wanted(m)} for label, by_m in values.items()}
        return {label: by_m for label, by_m in means.items() if by_m}

    small = {m for m, ratios in read_limited.items() if geometric_mean(ratios) > 1}
    return (chosen(parts, lambda m: m in small), chosen(speeds, lambda m: m not in small), kernels,
            statistics.median(row["gflop_per_s"] for row in peaks), peaks[0]["name"])


def draw_bars(axes, values, kernels, colors, percent):
    counts = sorted({m for by_m in values.values() for m in by_m})
    labels = list(values)
    width = 0.84 / len(labels)
    top = 0
    for index, label in enumerate(labels):
        for place, m in enumerate(counts):
            if m not in values[label]:
                continue
            height = values[label][m] * (100 if percent else 1)
            top = max(top, height)
            x = place + (index - (len(labels) - 1) / 2) * width
            axes.bar(x, height, width * 0.94, color=colors[label], edgecolor="black" if label in kernels else "none",
                     linewidth=0.6, zorder=2)
            axes.annotate(f"{height:.0f}", (x, height), ha="center", va="bottom", fontsize=8, xytext=(0, 1),
                          textcoords="offset points", zorder=4,
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.8})
    axes.set_xticks(range(len(counts)), [f"m = {m}" for m in counts])
    axes.set_xlim(-0.55, len(counts) - 0.45)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6, zorder=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return top


def draw_roof(axes, height, top):
    axes.axhline(height, color="black", linestyle="--", linewidth=1, zorder=3)
    axes.set_ylim(0, max(top, height) * 1.1)


def draw(rows, picture, pyplot):
    by_type = {}
    for row in rows:
        by_type.setdefault(row["activations"], []).append(row)
    summaries = {activations: summarize(part) for activations, part in by_type.items()}
    lines = sorted({f"{row['device']}, {row['threads']} thread{'s' if row['threads'] > 1 else ''}" for row in rows})
    commands = "\n".join(textwrap.fill(command, 150) for command in dict.fromkeys(row["command"] for row in rows))
    head_inches = 0.75 + 0.17 * commands.count("\n")
    inches = 3.9 * len(summaries) + head_inches
    all_kernels = list(dict.fromkeys(label for summary in summaries.values() for label in summary[2]))
    all_peers = sorted({row["name"] for row in rows if row["type"] == "peer"})
    colors = {label: KERNEL_COLORS[i % len(KERNEL_COLORS)] for i, label in enumerate(all_kernels)}
    colors.update({label: PEER_COLORS[i % len(PEER_COLORS)] for i, label in enumerate(all_peers)})
    figure, grid = pyplot.subplots(len(summaries), 2, figsize=(12.5, inches), squeeze=False)
    for (activations, (reading, computing, kernels, peak, peak_name)), (left, right) in zip(summaries.items(), grid):
        labels = list(dict.fromkeys([*reading, *computing]))
        for axes, values, percent in ((left, reading, True), (right, computing, False)):
            if not values:
                axes.set_visible(False)
                continue
            top = draw_bars(axes, values, kernels, colors, percent)
            if percent:
                draw_roof(axes, 100, top)
                axes.set_ylabel("time to read the FP8 weights / time, %")
                roof = "reading the FP8 weights once"
            else:
                draw_roof(axes, peak, top)
                axes.set_ylabel("GFLOP/s")
                roof = f"{peak_name} alone, {peak:.0f} GFLOP/s"
            axes.set_title(f"activations {activations}; dashed: {roof}", fontsize=10)
        handles = [pyplot.Rectangle((0, 0), 1, 1, color=colors[label]) for label in labels]
        shown = left if reading else right
        shown.legend(handles, labels, loc="upper left", bbox_to_anchor=(0, -0.09), ncol=4, fontsize=8, frameon=False,
                     borderaxespad=0, handlelength=1.2)
    figure.text(0.5, 1 - 0.12 / inches, "anyfp8 on " + "; ".join(lines), ha="center", va="top", fontsize=12)
    figure.text(0.5, 1 - 0.4 / inches, commands, ha="center", va="top", fontsize=8, family="monospace", color="#444444")
    figure.tight_layout(rect=(0, 0, 1, 1 - head_inches / inches), h_pad=2, w_pad=2)
    figure.savefig(picture, dpi=150)


def main(arguments):
    parser = argparse.ArgumentParser(description="Draws what `anyfp8 bench --json` measured.")
    parser.add_argument("files", nargs="*", metavar="FILE", help="JSON lines; none: standard input")
    parser.add_argument("-o", "--output", required=True, metavar="PICTURE", help="a .png, .svg or .pdf file to write")
    options = parser.parse_args(arguments)
    try:
        if options.files:
            texts = []
            for name in options.files:
                with open(name, encoding="utf-8") as file:
                    texts.append((name, file.read()))
        else:
            texts = [("standard input", sys.stdin.read())]
        rows = read_rows(texts)
        if not rows:
            raise ValueError("there are no rows to draw")
        try:
            import matplotlib
        except ImportError:
            raise ValueError("matplotlib is missing; install the package python3-matplotlib") from None
        matplotlib.use("Agg")
        from matplotlib import pyplot

        draw(rows, options.output, pyplot)
    except (OSError, ValueError) as error:
        print(f"plot_bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
