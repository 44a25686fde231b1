"""Which kernel runs a layer, and why: selection without a weight."""

from __future__ import annotations

import ctypes
import html
import json
import re
from ctypes import byref, c_char_p
from typing import Any
from collections.abc import Iterator, Sequence

from . import _arrays, _library
from ._device import Device, DeviceLike, as_device
from ._library import LinearOptions
from ._weight import Checkpoint, Group, describe_layer, layer_struct, open_checkpoint

POLICIES = {"accuracy": 1, "speed": 2, "invariant": 3}


def linear_options(
    dtype: Any = "bf16",
    out_dtype: Any = None,
    policy: str | None = None,
    force: str | None = None,
    disable: Sequence[str] | None = None,
    ignore_build: bool = False,
) -> LinearOptions:
    if policy is not None and policy not in POLICIES:
        raise ValueError(f"policy {policy!r} is unknown; there are {', '.join(POLICIES)}")
    options = LinearOptions(struct_size=ctypes.sizeof(LinearOptions), policy=POLICIES[policy] if policy else 0)
    options.in_dtype = _arrays.dtype_code(dtype)
    options.out_dtype = _arrays.dtype_code(dtype if out_dtype is None else out_dtype)
    options.force = None if force is None else force.encode()
    options.ignore_build = int(ignore_build)
    if disable is not None:
        names = [name.encode() for name in disable]
        options.disable = (c_char_p * max(1, len(names)))(*names)
        options.disable_count = len(names)
    return options


class Selection:
    """The kernels of one layer by m, the number of tokens, and why not the others."""

    def __init__(self, text: str, plan: dict[str, Any]):
        self._text = text
        #: [{"begin", "end", "kernel"}]: the kernel for begin <= m < end; end None: from there on.
        self.ranges: list[dict[str, Any]] = plan["ranges"]
        #: [{"kernel", "reason", "able"}]
        self.rejected: list[dict[str, Any]] = plan["rejected"]
        #: How the kernels want 8-bit weights: "row_major", "panel64", "k64_shuffled".
        self.layout: str = plan["layout"]

    def kernel_for(self, m: int) -> str:
        """The kernel for m tokens, m >= 0."""
        for entry in self.ranges:
            if entry["begin"] <= m and (entry["end"] is None or m < entry["end"]):
                return entry["kernel"]
        raise ValueError(f"m = {m}: a number of tokens is 0 or more")

    def explain(self) -> str:
        return self._text

    def to_dict(self) -> dict[str, Any]:
        return {"ranges": self.ranges, "layout": self.layout, "rejected": self.rejected}

    def ranges_text(self) -> str:
        if len(self.ranges) == 1:
            return self.ranges[0]["kernel"]
        parts = [
            f"m < {entry['end']} {entry['kernel']}" if entry["end"] is not None else f"then {entry['kernel']}"
            for entry in self.ranges
        ]
        return ", ".join(parts)

    def __repr__(self) -> str:
        return f"<anyfp8.Selection {self.ranges_text()}>"


def _select(device: Device, layer: dict[str, Any], options: LinearOptions) -> Selection:
    arguments = (device._handle.value, byref(layer_struct(layer)), byref(options))
    text = _library.text_of("select_text", *arguments)
    return Selection(text, json.loads(_library.text_of("select_json", *arguments)))


def init_fp8_linear_kernel(
    n: int,
    k: int,
    device: DeviceLike = "cpu",
    *,
    weight_dtype: Any = "e4m3",
    group: Group = "tensor",
    scale_dtype: Any = None,
    bias: Any = None,
    activation: str | tuple[str, Group] | None = None,
    dtype: Any = "bf16",
    out_dtype: Any = None,
    policy: str | None = None,
    force: str | None = None,
    disable: Sequence[str] | None = None,
) -> Selection:
    """Chooses the kernels of a layer W[n, k] on a device, which need not be here ("sm_86", "cpu:avx2").

    weight_dtype, group, scale_dtype, bias, activation: as of describe_layer() and Weight.from_arrays().
    dtype, out_dtype: of x and y: "bf16", "f16", or "f32" (CPU). policy: "accuracy" (x keeps its bits), "speed" (x may
    be quantised where the checkpoint asks for it), "invariant" (a row's bits do not depend on m); None: the library's
    default.
    force: this kernel or an error; disable: without these; None: what ANYFP8_KERNEL and ANYFP8_DISABLE say.

    NotImplementedError, with each kernel's reason, when nothing can run it. Of a device that is not here, kernels
    count that are not in this build.
    """
    where = as_device(device)
    layer = describe_layer(
        n, k, dtype=weight_dtype, group=group, scale_dtype=scale_dtype, bias=bias, activation=activation
    )
    options = linear_options(dtype, out_dtype, policy, force, disable, ignore_build=not where.present)
    return _select(where, layer, options)


class Plan:
    """What runs each quantised layer of a checkpoint; see plan()."""

    def __init__(self, checkpoint: Checkpoint, device: Device, policy: str, dtype: str, layers: dict[str, Any]):
        self.path, self.format = checkpoint.path, checkpoint.format
        self.device, self.policy, self.dtype = device, policy, dtype
        #: {module: (description of the layer, Selection)}
        self.layers: dict[str, tuple[dict[str, Any], Selection]] = layers

    def __getitem__(self, module: str) -> Selection:
        return self.layers[module][1]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.path,
            "format": self.format,
            "device": self.device.name,
            "device_present": self.device.present,
            "policy": self.policy,
            "activations": self.dtype,
            "layers": [
                {"module": module, "n": layer["n"], "k": layer["k"], "scheme": layer["scheme"], **selection.to_dict()}
                for module, (layer, selection) in self.layers.items()
            ],
        }

    def _rows(self) -> list[tuple[str, str, str, str]]:
        """Layers that differ in numbers of their names alone are one row."""
        rows: dict[tuple[str, str, str, str], int] = {}
        for module, (layer, selection) in self.layers.items():
            row = (
                re.sub(r"(?<=\.)\d+(?=\.|$)", "*", module),
                f"{layer['n']} x {layer['k']}",
                layer["scheme"],
                selection.ranges_text(),
            )
            rows[row] = rows.get(row, 0) + 1
        return [(f"{row[0]} ({count})" if count > 1 else row[0], *row[1:]) for row, count in rows.items()]

    def _title(self) -> str:
        absent = "" if self.device.present else " (not here)"
        return (
            f"{self.path}: {self.format or 'not quantised'}, {len(self)} quantised layers on {self.device.name}{absent}, "
            f"policy {self.policy}, activations {self.dtype}"
        )

    def __repr__(self) -> str:
        rows = self._rows()
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
        lines = ["  ".join([*(text.ljust(width) for text, width in zip(row, widths)), row[3]]) for row in rows]
        return "\n".join([self._title(), *(f"  {line}" for line in lines)])

    def _repr_html_(self) -> str:
        cells = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in self._rows())
        head = "<tr><th>layers</th><th>n x k</th><th>weights</th><th>kernels</th></tr>"
        return f"<p>{html.escape(self._title())}</p><table>{head}{cells}</table>"


def plan(
    model: Any,
    device: DeviceLike = "cpu",
    *,
    dtype: Any = "bf16",
    policy: str | None = None,
    force: str | None = None,
    disable: Sequence[str] | None = None,
) -> Plan:
    """The kernels of every quantised layer of a model directory, .safetensors file or Checkpoint, on a device that
    need not be here ("sm_86"). Arguments as of init_fp8_linear_kernel(). ValueError for a layer that cannot be loaded."""
    checkpoint = model if isinstance(model, Checkpoint) else open_checkpoint(model)
    if checkpoint.inspection["errors"]:
        error = checkpoint.inspection["errors"][0]
        raise ValueError(f"{checkpoint.path}: {error['tensor']}: {error['text']}")
    where = as_device(device)
    options = linear_options(dtype, None, policy, force, disable, ignore_build=not where.present)
    alike: dict[str, Selection] = {}  # one for all layers that selection cannot tell apart
    layers = {}
    for layer in checkpoint.layers:
        if layer["weight"]["scale_dtype"] is None:
            continue
        key = json.dumps([layer[name] for name in ("n", "k", "weight", "activation", "bias")])
        if key not in alike:
            alike[key] = _select(where, layer, options)
        layers[layer["module"]] = (layer, alike[key])
    return Plan(checkpoint, where, policy or "default", _arrays.dtype_name(dtype), layers)
