#!/usr/bin/env python3
"""make_scaling.py: its model gives back the times that rows were made from, and the page of the tree is up to date."""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
sys.path.insert(0, str(TOOLS))
import make_scaling  # noqa: E402

RESULTS = TOOLS.parent / "bench" / "results"


def made_rows(a=3.0, b=2e-7, latency=8.0, rate=300e3):
    """Rows of a machine whose products take a + b * weights and whose all-reduces take latency + bytes / rate."""
    common = {"schema_version": 1, "device": "card", "engine": "nccl", "ranks": 2, "command": "anyfp8 bench --tp"}
    rows = []
    for power in range(12, 28, 2):
        size = 1 << power
        us = latency + size / rate
        rows.append(common | {"type": "all_reduce", "bytes": size, "us": us, "bus_gb_per_s": size / us / 1e3})
    for n, k in ((14336, 4096), (28672, 8192)):
        for m in make_scaling.TOKENS:
            area = 2 * n * k
            pair = {"one_us": a + b * area, "gemm_us": a + b * area / 2, "all_reduce_us": 9.0, "us": 50.0}
            rows.append(common | {"type": "tp_pair", "n": n, "k": k, "m": m, "scheme": "channel"} | pair)
            rows[-1] |= {"speedup": 1.5, "of_expected": 1.0}
    return rows


def expect(condition, text):
    if not condition:
        sys.exit(f"make_scaling_test: {text}")


def main():
    rows = made_rows()
    model = make_scaling.Model(rows)
    for m, (a, b, error) in model.products.items():
        expect(abs(a - 3) < 1e-6 and abs(b / 2e-7 - 1) < 1e-9 and error < 1e-9, f"m {m}: a {a}, b {b}, error {error}")
    expect(abs(model.two_us(1 << 14) - (8 + (1 << 14) / 300e3)) < 1e-9, "a measured all-reduce is not given back")
    expect(model.reduce_us(1 << 20, 1) == 0, "one rank sends nothing")
    expect(model.reduce_us(1 << 20, 2) < model.reduce_us(1 << 20, 8) < model.reduce_us(1 << 20, 16), "more ranks, more time")
    shape = make_scaling.MODELS["70B"]
    expect(model.layer_us(shape, 1, 2)[0] < model.layer_us(shape, 1, 1)[0], "half of the weights take less")
    text = make_scaling.page(rows)
    for part in ("405B", "of one/N + all-reduce", "28672", "anyfp8 bench --tp"):
        expect(part in text, f"the page has no {part}")

    files = [str(file) for file in (RESULTS / "h200_x2.jsonl", RESULTS / "zen4_ranks.jsonl") if file.is_file()]
    tool = [sys.executable, "-B", str(TOOLS / "make_scaling.py")]
    if files:
        checked = subprocess.run([*tool, "--check", *files], capture_output=True, text=True)
        expect(checked.returncode == 0, checked.stderr)
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as other:
        other.write("\n".join(json.dumps(row) for row in rows))
        other.flush()
        checked = subprocess.run([*tool, "--check", other.name], capture_output=True, text=True)
        expect(checked.returncode == 1 and "run tools/make_scaling.py" in checked.stderr, "other rows give the same page")


if __name__ == "__main__":
    main()
