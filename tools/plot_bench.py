#!/usr/bin/env python3
"""Draws what `anyfp8 bench --json` measured.

plot_bench.py [FILE ...] -o PICTURE reads the rows of the files, or of standard input, and writes one picture (.png, .svg
or .pdf). All rows are of one device, number of threads, instruction set and type of activations. Values are geometric
means over the shapes. Left stand the token counts m that reading the weights limits, as the time to read the weights of the
first scheme once in parts of the time taken; right those that arithmetic limits, in GFLOP/s. The dashed line is what the
machine itself gave in the same run. Without rows of its peak, reading limits where it takes half the time of the fastest.

With --times it draws the time against m instead, a field for each shape, and the roofline as a dashed line: what reading and
arithmetic would take at the rates that the machine gave in the same run, whichever is longer.
"""
import argparse
import json
import math
import sys
import textwrap
from collections import defaultdict

# Told apart by people who do not see all colours, too (Okabe and Ito).
KERNEL_COLORS = ["#0072B2", "#56B4E9", "#009E73", "#004166", "#7FCDBB"]
PEER_COLORS = ["#E69F00", "#D55E00", "#CC79A7", "#999999"]

# What every row has.
TEXTS = ("name", "device", "isa", "activations", "command")


def is_positive(value):
    """A number that can be divided by; a measured one is far inside."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 1e-9 <= value <= 1e18


def fault_of(row):
    """What keeps a row from being drawn, or None."""
    if not isinstance(row, dict) or row.get("schema_version") != 1:
        return "is no row of `anyfp8 bench --json`"
    kind = row.get("type")
    texts, numbers = [*TEXTS], ["threads", "m"]
    if kind in ("kernel", "peer", "read", "peak"):
        numbers += ["n", "k"]
        if "refused" not in row:
            numbers += ["us"] if kind == "read" else ["us", "gflop_per_s"]
        texts += ["scheme"] if kind == "kernel" else []
    elif kind != "mean":
        return "has a type that `anyfp8 bench --json` does not write"
    for key in texts:
        if not isinstance(row.get(key), str):
            return f"has no text {key}"
    for key in numbers:
        if not is_positive(row.get(key)):
            return f"has no positive number {key}"
    return None


def read_rows(texts):
    """The rows of `bench --json`, all of the same machine and activations; ValueError with a sentence for anything else."""
    rows, sources = [], {}
    for name, text in texts:
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if fault := fault_of(row):
                raise ValueError(f"{name}:{number} {fault}")
            if row["type"] in ("read", "peak"):
                case = (row["type"], row["n"], row["k"], row["m"])
                if case in sources:
                    raise ValueError(f"{name}:{number} repeats {sources[case]}; give the rows of one run")
                sources[case] = f"{name}:{number}"
            rows.append(row)
    runs = sorted({f"{r['device']} ({r['isa']}), {r['threads']} threads, activations {r['activations']}" for r in rows})
    if len(runs) > 1:
        raise ValueError(f"the rows are of different runs, which one picture would mix: {'; '.join(runs)}")
    return rows


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def summarize(rows):
    """(reading, computing), each {label: {m: value}}, and the labels of kernels; then the row of the machine's peak that is
    the median, or None."""
    timed = [row for row in rows if row["type"] != "mean" and "refused" not in row]
    reads = {(row["n"], row["k"], row["m"]): row for row in timed if row["type"] == "read"}
    peaks = sorted((row for row in timed if row["type"] == "peak"), key=lambda row: row["gflop_per_s"])
    workers = [row for row in timed if row["type"] in ("kernel", "peer")]
    if not workers:
        raise ValueError("no row of a kernel or peer is among the input")
    peak = peaks[len(peaks) // 2] if peaks else None
    schemes = {row["scheme"] for row in workers if row["type"] == "kernel"}
    parts, speeds, kernels = defaultdict(lambda: defaultdict(list)), defaultdict(lambda: defaultdict(list)), []
    read_limited = defaultdict(list)
    for row in workers:
        read = reads.get((row["n"], row["k"], row["m"]))
        if read is None:
            raise ValueError("the rows of type read are missing; give the whole output of `anyfp8 bench --json`")
        label = label_of(row, schemes)
        if row["type"] == "kernel":
            kernels += [label] if label not in kernels else []
        parts[label][row["m"]].append(read["us"] / row["us"])
        speeds[label][row["m"]].append(row["gflop_per_s"])
        if peak is not None:
            flops = row["gflop_per_s"] * row["us"]
            read_limited[row["m"]].append(read["us"] * peak["gflop_per_s"] / flops)

    def chosen(values, wanted):
        means = {label: {m: geometric_mean(v) for m, v in by_m.items() if wanted(m)} for label, by_m in values.items()}
        return {label: by_m for label, by_m in means.items() if by_m}

    if peak is not None:
        small = {m for m, ratios in read_limited.items() if geometric_mean(ratios) > 1}
    else:
        small = {m for by_m in parts.values() for m, part in by_m.items() if geometric_mean(part) > 0.5}
    return chosen(parts, lambda m: m in small), chosen(speeds, lambda m: m not in small), kernels, peak


def label_of(row, schemes):
    return row["name"] + (f", {row['scheme']}" if row["type"] == "kernel" and len(schemes) > 1 else "")


def times_by_shape(rows):
    """{(n, k): ({label: {m: us}}, {m: us of the roofline})} and the labels of kernels. The roofline is that of the first
    kernel's scheme."""
    workers = [row for row in rows if row["type"] in ("kernel", "peer") and "refused" not in row]
    schemes = list(dict.fromkeys(row["scheme"] for row in workers if row["type"] == "kernel"))
    if not schemes:
        raise ValueError("no row of a kernel is among the input")
    shapes, kernels = {}, []
    for row in workers:
        label = label_of(row, schemes)
        times, roof = shapes.setdefault((row["n"], row["k"]), (defaultdict(dict), defaultdict(list)))
        times[label][row["m"]] = row["us"]
        if row["type"] == "kernel":
            kernels += [label] if label not in kernels else []
            if row["scheme"] == schemes[0] and is_positive(row.get("of_roof")):
                roof[row["m"]].append(row["us"] * row["of_roof"])
    # Each kernel's row gives the same roofline, up to the noise of its rounds.
    return {shape: (times, {m: geometric_mean(us) for m, us in roof.items()})
            for shape, (times, roof) in shapes.items()}, kernels


def choose_colors(labels, kernels):
    peers = sorted(label for label in labels if label not in kernels)
    colors = {label: KERNEL_COLORS[i % len(KERNEL_COLORS)] for i, label in enumerate(kernels)}
    return {**colors, **{label: PEER_COLORS[i % len(PEER_COLORS)] for i, label in enumerate(peers)}}


def draw_times(rows, summary, picture, pyplot):
    shapes, kernels = summary
    labels = list(dict.fromkeys(label for times, _ in shapes.values() for label in times))
    colors = choose_colors(labels, kernels)
    columns = min(len(shapes), 3)
    lines = math.ceil(len(shapes) / columns)
    figure, fields = pyplot.subplots(lines, columns, figsize=(5.2 * columns, 4.2 * lines + 0.8), squeeze=False)
    for axes in fields.flat[len(shapes):]:
        axes.set_visible(False)
    for axes, ((n, k), (times, roof)) in zip(fields.flat, shapes.items()):
        for label, by_m in times.items():
            counts = sorted(by_m)
            axes.plot(counts, [by_m[m] for m in counts], color=colors[label], label=label, marker="o", markersize=3,
                      linestyle="-" if label in kernels else "-.", zorder=3 if label in kernels else 2)
        if roof:
            counts = sorted(roof)
            axes.plot(counts, [roof[m] for m in counts], color="black", linestyle="--", linewidth=1, label="roofline")
        counts = sorted({m for by_m in times.values() for m in by_m})
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        counts = [m for m, before in zip(counts, [0, *counts]) if m > 1.1 * before]  # labels that do not meet
        axes.set_xticks(counts, [str(m) for m in counts], fontsize=7, rotation=60 if len(counts) > 8 else 0)
        axes.set_xlabel("m")
        axes.set_ylabel("us")
        axes.set_title(f"{n} x {k}", fontsize=10)
        axes.grid(color="#dddddd", linewidth=0.6, zorder=0)
        axes.legend(fontsize=7, frameon=False)
    first = rows[0]
    figure.suptitle(f"anyfp8 on {first['device']} ({first['isa']}), activations {first['activations']}", fontsize=12)
    figure.tight_layout()
    figure.savefig(picture, dpi=150)


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


def draw(rows, summary, picture, pyplot):
    reading, computing, kernels, peak = summary
    first = rows[0]
    scheme = next((row["scheme"] for row in rows if row["type"] == "kernel"), "kernels'")
    commands = "\n".join(textwrap.fill(command, 150) for command in dict.fromkeys(row["command"] for row in rows))
    head_inches = 0.75 + 0.17 * commands.count("\n")
    inches = 3.9 + head_inches
    labels = list(dict.fromkeys([*reading, *computing]))
    colors = choose_colors(labels, kernels)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12.5, inches))
    for axes, values in ((left, reading), (right, computing)):
        if not values:
            axes.set_visible(False)
            continue
        top = draw_bars(axes, values, kernels, colors, percent=axes is left)
        title = f"activations {first['activations']}"
        if axes is left:
            draw_roof(axes, 100, top)
            axes.set_ylabel(f"time to read the {scheme} weights once / time, %")
            title += f"; dashed: reading the {scheme} weights once"
        else:
            axes.set_ylabel("GFLOP/s")
            if peak is not None:
                draw_roof(axes, peak["gflop_per_s"], top)
                title += f"; dashed: {peak['name']} alone, {peak['gflop_per_s']:.0f} GFLOP/s"
        axes.set_title(title, fontsize=10)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colors[label]) for label in labels]
    shown = left if reading else right
    shown.legend(handles, labels, loc="upper left", bbox_to_anchor=(0, -0.09), ncol=4, fontsize=8, frameon=False,
                 borderaxespad=0, handlelength=1.2)
    head = f"anyfp8 on {first['device']}, {first['threads']} thread{'s' if first['threads'] > 1 else ''}"
    figure.text(0.5, 1 - 0.12 / inches, head, ha="center", va="top", fontsize=12)
    figure.text(0.5, 1 - 0.4 / inches, commands, ha="center", va="top", fontsize=8, family="monospace", color="#444444")
    figure.tight_layout(rect=(0, 0, 1, 1 - head_inches / inches), h_pad=2, w_pad=2)
    figure.savefig(picture, dpi=150)


def main(arguments):
    parser = argparse.ArgumentParser(description="Draws what `anyfp8 bench --json` measured.")
    parser.add_argument("files", nargs="*", metavar="FILE", help="JSON lines; none: standard input")
    parser.add_argument("-o", "--output", required=True, metavar="PICTURE", help="a .png, .svg or .pdf file to write")
    parser.add_argument("--times", action="store_true", help="time against m for each shape, with the roofline")
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
        summary = times_by_shape(rows) if options.times else summarize(rows)
        try:
            import matplotlib
        except ImportError:
            raise ValueError("matplotlib is missing; install the package python3-matplotlib") from None
        matplotlib.use("Agg")
        from matplotlib import pyplot

        (draw_times if options.times else draw)(rows, summary, options.output, pyplot)
    except (OSError, ValueError) as error:
        print(f"plot_bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
