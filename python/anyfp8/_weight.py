from __future__ import annotations

import ctypes
import json
from ctypes import byref, c_float, c_size_t, c_void_p
from functools import cached_property
from os import PathLike, fsencode
from typing import Any, Union
from collections.abc import Sequence

import numpy as np

from . import _arrays, _library
from ._library import Handle, Layer

Group = Union[str, tuple[int, int]]

_GROUPS = {"tensor": (0, 0), "channel": (1, 0), "row": (1, 0), "block": (128, 128), "mxfp8": (1, 32)}
_TYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": "u2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1"}
_TYPES |= {"U64": "u8", "U32": "u4", "U16": "u2", "U8": "u1", "BOOL": "?"}


def as_group(group: Group) -> tuple[int, int]:
    """Rows and columns that one scale covers; 0 is the whole extent. "tensor", "channel", "block", "mxfp8" too."""
    if isinstance(group, str):
        if group not in _GROUPS:
            raise ValueError(f"group {group!r} is unknown; there are {', '.join(_GROUPS)}, or (rows, columns)")
        return _GROUPS[group]
    rows, cols = group
    return int(rows), int(cols)


def layer_struct(description: dict[str, Any]) -> Layer:
    """The C struct of what a weight's to_dict() says: its shape and scheme."""
    weight, activation = description["weight"], description["activation"]
    layer = Layer(struct_size=ctypes.sizeof(Layer), n=description["n"], k=description["k"])
    layer.weight_dtype = _arrays.CODES[weight["dtype"]]
    layer.group_rows, layer.group_cols = weight["group"]
    if weight["scale_dtype"] is not None:
        layer.scale_dtype = _arrays.CODES[weight["scale_dtype"]]
    if description["bias"] is not None:
        layer.bias_dtype = _arrays.CODES[description["bias"]]
    if activation is not None:
        layer.activation = 1 if activation["source"] == "stored" else 2
        layer.activation_rows, layer.activation_cols = activation["group"]
    layer.input_scale_ub = description.get("input_scale_ub") or 0.0
    return layer


def describe_layer(
    n: int,
    k: int,
    *,
    dtype: Any = "e4m3",
    group: Group = "tensor",
    scale_dtype: Any = None,
    bias: Any = None,
    activation: str | tuple[str, Group] | None = None,
    input_scale_ub: float | None = None,
) -> dict[str, Any]:
    """Shape and scheme of a layer, as Weight.to_dict() has them.

    bias: its dtype, or None. activation: how the checkpoint wants x quantised: None, "stored" (one static scale), or
    ("dynamic", group of x[m, k]): ("dynamic", "row") is per token.
    """
    name = _arrays.dtype_name(dtype)
    rows, cols = as_group(group)
    quantised = _arrays.BYTES[name] == 1
    wanted = None
    if activation is not None:
        source, of = (activation, "tensor") if isinstance(activation, str) else activation
        if source not in ("stored", "dynamic"):
            raise ValueError(f'activation {source!r} is unknown; there are "stored" and ("dynamic", group)')
        wanted = {"dtype": "e4m3", "group": list(as_group(of)), "source": source}
    scale = _arrays.dtype_name(scale_dtype or ("e8m0" if group == "mxfp8" else "f32")) if quantised else None
    return {
        "n": n,
        "k": k,
        "weight": {"dtype": name, "group": [rows, cols], "scale_dtype": scale},
        "activation": wanted,
        "bias": None if bias is None else _arrays.dtype_name(bias),
        "input_scale_ub": input_scale_ub,
    }


class Weight:
    """A weight in canonical form, in host memory: y = x · (data * scale)ᵀ + bias. From Weight.from_arrays(),
    quantize(), merge() or Checkpoint.weight()."""

    def __init__(self, handle: Handle, owners: tuple[Any, ...] = (), bias_owner: Any = None):
        self._handle = handle
        self._owners = owners  # arrays the library refers to
        self._bias_owner = bias_owner

    @classmethod
    def from_arrays(
        cls,
        data: Any,
        scale: Any = None,
        bias: Any = None,
        *,
        dtype: Any = None,
        group: Group | None = None,
        scale_dtype: Any = None,
        input_scale: float | None = None,
        input_scale_ub: float | None = None,
        activation: str | tuple[str, Group] | None = None,
    ) -> Weight:
        """A weight over arrays in host memory, which are not copied and must not change.

        data: [n, k], contiguous: e4m3 or e5m2 as ml_dtypes or torch have them, or uint8 with `dtype` named; or bf16,
          f16, f32 for a layer that is not quantised, without `scale`.
        scale: multiplies. One number, or [ceil(n / rows), ceil(k / columns)] for group = (rows, columns); f32, and
          bf16 or f16 are converted; e8m0 as ml_dtypes or torch have it, or uint8 with scale_dtype="e8m0".
        group: "tensor", "channel", "block" (128 x 128), "mxfp8", or (rows, columns), 0 for the whole extent. None:
          by the scale's size, a number is per tensor, n of them per channel; blocks have to be named.
        bias: [n], f32, f16 or bf16.
        input_scale, input_scale_ub, activation: for policy "speed"; see describe_layer() for the last.

        ValueError where shapes, types or values do not fit: NaN codes, NaN, infinite or negative scales.
        """
        codes = _arrays.host_matrix(data, "data", dtype)
        n, k = codes.shape
        numbers, of_scale = None, None
        if scale is not None:
            numbers, of_scale = _scale(scale, scale_dtype, n)
            if group is None:
                size = numbers.size
                if size not in (1, n):
                    raise ValueError(
                        f"scale has {size} numbers for a weight {[n, k]}: neither one nor {n}, so `group` must say what "
                        "one of them covers, such as (128, 128)"
                    )
                group = "tensor" if size == 1 else "channel"
        offset = None
        if bias is not None:
            offset = _arrays.describe(bias, "bias")
            if offset.shape != (n,) or not offset.contiguous or offset.device != "cpu":
                raise ValueError(
                    f"bias is {list(offset.shape)} on {offset.device}; a contiguous [{n}] in host memory is needed"
                )
            offset = _arrays.with_dtype(offset, "bias", None)
        if activation is None and input_scale is not None:
            activation = "stored"
        layer = describe_layer(
            n,
            k,
            dtype=codes.dtype,
            group=group or "tensor",
            scale_dtype=of_scale,
            bias=offset and offset.dtype,
            activation=activation,
            input_scale_ub=input_scale_ub,
        )
        if numbers is not None:
            needed = [-(-n // (layer["weight"]["group"][0] or n)), -(-k // (layer["weight"]["group"][1] or k))]
            if numbers.size != needed[0] * needed[1] or (numbers.ndim == 2 and list(numbers.shape) != needed):
                raise ValueError(
                    f"scale is {list(numbers.shape)}; a weight {[n, k]} in groups of {group} needs {needed}"
                )
        handle = Handle(
            "weight",
            "weight_borrow",
            byref(layer_struct(layer)),
            codes.pointer,
            None if numbers is None else numbers.ctypes.data,
            offset and offset.pointer,
            None if input_scale is None else byref(c_float(input_scale)),
        )
        return cls(handle, (codes.owner, numbers), offset and offset.owner)

    def to_dict(self) -> dict[str, Any]:
        """n, k, scheme (a text), weight and activation ({"dtype", "group", ...}), bias, input_scale, resident_bytes."""
        return json.loads(_library.text_of("weight_json", self._handle.value))

    @cached_property
    def _info(self) -> dict[str, Any]:
        return self.to_dict()

    @property
    def n(self) -> int:
        """Outputs: rows of data."""
        return self._info["n"]

    @property
    def k(self) -> int:
        """Inputs: columns of data."""
        return self._info["k"]

    @property
    def dtype(self) -> str:
        """ "e4m3", "e5m2"; or "bf16", "f16", "f32" of a weight that is not quantised."""
        return self._info["weight"]["dtype"]

    @property
    def scheme(self) -> str:
        """For people, such as "e4m3 per 128x128"."""
        return self._info["scheme"]

    @property
    def group(self) -> tuple[int, int]:
        """Rows and columns that one scale covers; 0 is the whole extent."""
        return tuple(self._info["weight"]["group"])  # type: ignore[return-value]

    @property
    def scale_dtype(self) -> str | None:
        return self._info["weight"]["scale_dtype"]

    @property
    def bias_dtype(self) -> str | None:
        return self._info["bias"]

    @property
    def resident_bytes(self) -> int:
        """Bytes of data, scales and bias."""
        return self._info["resident_bytes"]

    def _view(self, name: str, item: str, shape: tuple[int, ...]) -> np.ndarray | None:
        pointer, size = c_void_p(), c_size_t()
        _library.call(name, self._handle.value, byref(pointer), byref(size))
        return None if pointer.value is None else _arrays.view(pointer.value, item, shape, self)

    @property
    def data(self) -> np.ndarray:
        """The codes, [n, k], not copied and read-only: uint8 (uint16 of 16-bit weights, float32 of 32-bit ones)."""
        item = {1: "u1", 2: "u2", 4: "f4"}[_arrays.BYTES[self.dtype]]
        found = self._view("weight_data", item, (self.n, self.k))
        assert found is not None
        return found

    @property
    def scale(self) -> np.ndarray | None:
        """The scales, [ceil(n / rows), ceil(k / columns)], not copied: float32, or uint8 codes of e8m0; or None."""
        if self.scale_dtype is None:
            return None
        rows, cols = self.group
        shape = (-(-self.n // (rows or self.n)), -(-self.k // (cols or self.k)))
        return self._view("weight_scale", "f4" if self.scale_dtype == "f32" else "u1", shape)

    @property
    def bias(self) -> np.ndarray | None:
        """[n], not copied: float32, float16, or uint16 codes of bf16; or None."""
        if self.bias_dtype is None:
            return None
        return self._view("weight_bias", {"f32": "f4", "f16": "f2", "bf16": "u2"}[self.bias_dtype], (self.n,))

    @property
    def input_scale(self) -> float | None:
        return self._info["input_scale"]

    @property
    def input_scale_ub(self) -> float | None:
        return self._info["input_scale_ub"]

    def activation_options(self) -> dict[str, Any]:
        """Arguments of from_arrays() that say how x may be quantised, but for input_scale."""
        wanted, bound = self._info["activation"], self.input_scale_ub
        if wanted is None:
            return {"input_scale_ub": bound}
        source = "stored" if wanted["source"] == "stored" else ("dynamic", tuple(wanted["group"]))
        return {"activation": source, "input_scale_ub": bound}

    def dequantize(self, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Rows [begin, end) as data * scale, float32 [end - begin, k]."""
        return dequantized("weight_dequantize", self._handle, begin, self.n if end is None else end, self.k)

    def __repr__(self) -> str:
        bias = f", {self.bias_dtype} bias" if self.bias_dtype else ""
        return f"<anyfp8.Weight [{self.n}, {self.k}], {self.scheme}{bias}, {self.resident_bytes} bytes>"


def _scale(scale: Any, dtype: Any, n: int) -> tuple[np.ndarray, str]:
    """A contiguous array of f32, or of e8m0 codes, and which."""
    found = _arrays.describe(np.float32(scale).reshape(1) if isinstance(scale, (int, float)) else scale, "scale")
    if found.device != "cpu":
        raise ValueError(f"scale lies on {found.device}; host memory is needed: scale.cpu()")
    if found.dtype == "e8m0" or (found.dtype == "uint8" and dtype is not None and _arrays.dtype_name(dtype) == "e8m0"):
        codes = found.owner
        if _arrays.is_torch(codes):
            import torch

            codes = codes.view(torch.uint8).numpy()
        return np.ascontiguousarray(codes.view(np.uint8)), "e8m0"
    if found.dtype not in ("f32", "f16", "bf16"):
        raise ValueError(f'scale is {found.dtype}; f32, f16, bf16 or e8m0 (uint8 with scale_dtype="e8m0") is needed')
    numbers = found.owner
    numbers = numbers.detach().float().numpy() if _arrays.is_torch(numbers) else numbers.astype(np.float32, copy=False)
    return np.ascontiguousarray(numbers), "f32"


def dequantized(function: str, handle: Handle, begin: int, end: int, k: int) -> np.ndarray:
    rows = np.empty((max(0, end - begin), k), np.float32)
    _library.call(function, handle.value, begin, end, rows.ctypes.data, rows.size)
    return rows


def quantize(data: Any, scheme: str = "channel") -> Weight:
    """Quantises data[n, k] (bf16, f16 or f32 in host memory, contiguous, read during the call only) to e4m3.

    scheme: "tensor", "channel", "block" (128 x 128) or "mxfp8" (k a multiple of 32). scale = max|w| / 448 over the
    group; mxfp8: the power of two from there. ValueError for other types, NaN or infinity, with the position.
    """
    found = _arrays.host_matrix(data, "data")
    n, k = found.shape
    return Weight(Handle("weight", "weight_quantize", found.pointer, _arrays.CODES[found.dtype], n, k, scheme.encode()))


def merge(weights: Sequence[Weight]) -> Weight:
    """Stacks weights of the same k and dtype along n (q/k/v, gate/up). Every scale is kept exactly; bytes are copied."""
    parts = (c_void_p * len(weights))(*(weight._handle.value for weight in weights))
    return Weight(Handle("weight", "weight_merge", parts, len(weights)))


class Checkpoint:
    """A Hugging Face model directory or .safetensors file, opened and checked; see open_checkpoint()."""

    def __init__(self, path: str | PathLike):
        self.path = str(path)
        self._handle = Handle("checkpoint", "checkpoint_open", fsencode(path))

    @cached_property
    def tensors(self) -> dict[str, dict[str, Any]]:
        """By name: dtype as the file has it ("F8_E4M3"), shape, bytes, shard."""
        entries = json.loads(_library.text_of("checkpoint_tensors_json", self._handle.value))
        return {entry.pop("name"): entry for entry in entries}

    @cached_property
    def inspection(self) -> dict[str, Any]:
        """format (the dialect, or None), layers (module, n, k, scheme, ...), anomalies, errors, quantized_parameters."""
        return json.loads(_library.text_of("checkpoint_inspect_json", self._handle.value))

    @property
    def format(self) -> str | None:
        """The dialect: "hf_fp8", "compressed_tensors", ...; None of a checkpoint that is not quantised."""
        return self.inspection["format"]

    @property
    def layers(self) -> list[dict[str, Any]]:
        """Every 2-D `<module>.weight`, embeddings included: {"module", and what Weight.to_dict() has}."""
        return self.inspection["layers"]

    def weight(self, module: str) -> Weight:
        """Loads `<module>.weight` ("model.layers.0.mlp.up_proj") with scale and bias. Mapped, not copied.
        ValueError names the tensor that is missing or wrong."""
        return Weight(Handle("weight", "weight_load", self._handle.value, module.encode()))

    def tensor(self, name: str) -> np.ndarray:
        """The bytes of one tensor where they are mapped, read-only: as numpy has its type, FP8 as uint8 and BF16 as
        uint16, to be used as tensor(name).view(ml_dtypes.bfloat16)."""
        pointer, size = c_void_p(), c_size_t()
        _library.call("checkpoint_tensor", self._handle.value, name.encode(), byref(pointer), byref(size))
        entry = self.tensors[name]
        item, shape = _TYPES.get(entry["dtype"], "u1"), tuple(entry["shape"])
        return _arrays.view(pointer.value or 0, item, shape, self)

    def __repr__(self) -> str:
        return f"<anyfp8.Checkpoint {self.path}: {len(self.tensors)} tensors, {self.format or 'not quantised'}>"


def open_checkpoint(path: str | PathLike) -> Checkpoint:
    """Opens a model directory (config.json, model.safetensors or shards) or one .safetensors file, of any FP8 dialect.

    Headers are read and checked, no tensor is. FileNotFoundError, OSError, or ValueError where a file breaks the
    rules of its format, with the file and what is wrong.
    """
    return Checkpoint(path)
