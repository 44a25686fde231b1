#!/usr/bin/env python3
"""One FP8 layer with numpy alone: numpy_layer.py [MODEL [MODULE]]

Opens a checkpoint of any FP8 dialect, says which kernel runs the layer for how many tokens, runs it, and holds the
result against numpy's product with the dequantised weight. Without MODEL it quantises a random layer.
"""

import sys

import anyfp8
import numpy as np

if len(sys.argv) > 1:
    checkpoint = anyfp8.open_checkpoint(sys.argv[1])
    quantised = [layer["module"] for layer in checkpoint.layers if layer["weight"]["scale_dtype"]]
    weight = checkpoint.weight(sys.argv[2] if len(sys.argv) > 2 else quantised[0])
else:
    weight = anyfp8.quantize(np.random.default_rng(0).standard_normal((768, 256), np.float32), "block")

layer = anyfp8.Linear(weight, "cpu", dtype="f32")
print(weight)
print(layer.explain())

x = np.random.default_rng(1).standard_normal((4, layer.k), np.float32)  # [m, k]
y = layer(x)  # [m, n]
difference = np.abs(y - x @ weight.dequantize().T).max()
print(f"y {y.shape}; the largest difference from numpy's product is {difference:.2g}")
print(f"{layer.resident_bytes / (layer.n * layer.k):.3f} bytes a parameter")
sys.exit(0 if difference < 1e-3 * np.abs(y).max() else 1)
