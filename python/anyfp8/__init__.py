"""FP8 linear layers on any hardware: CPUs, and NVIDIA GPUs with and without FP8 units.

    import anyfp8, numpy as np

    checkpoint = anyfp8.open_checkpoint("models/kjv-qwen3-fp8")
    up = anyfp8.Linear(checkpoint.weight("model.layers.0.mlp.up_proj"), "cpu", dtype="f32")
    y = up(np.zeros((1, up.k), np.float32))      # [1, n]
    print(up.explain())                          # which kernel for how many tokens, and why not the others

anyfp8.torch has a torch operator and module, anyfp8.transformers loads FP8 checkpoints without dequantising them.
Errors are ValueError (values that do not fit, files that are wrong), OSError, NotImplementedError (understood, and
nothing here can do it) and RuntimeError, each with the library's sentence.
"""

from ._device import Device, devices, kernels, load_plugin, set_num_threads
from ._library import __version__
from ._linear import Linear
from ._plan import Plan, Selection, init_fp8_linear_kernel, plan
from ._weight import Checkpoint, Weight, merge, open_checkpoint, quantize

__all__ = [
    "Checkpoint",
    "Device",
    "Linear",
    "Plan",
    "Selection",
    "Weight",
    "__version__",
    "devices",
    "init_fp8_linear_kernel",
    "kernels",
    "load_plugin",
    "merge",
    "open_checkpoint",
    "plan",
    "quantize",
    "set_num_threads",
]
