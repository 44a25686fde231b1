"""Arrays of numpy, torch and others as addresses: nothing here copies."""

from __future__ import annotations

import math
import sys
from typing import Any, NamedTuple

import numpy as np

# Element types of c_api.h by the library's names, and what numpy, ml_dtypes, torch and safetensors call them.
CODES = {"f64": 1, "f32": 2, "f16": 3, "bf16": 4, "e4m3": 5, "e5m2": 6, "e8m0": 7}
NAMES = {code: name for name, code in CODES.items()}
BYTES = {"f64": 8, "f32": 4, "f16": 2, "bf16": 2, "e4m3": 1, "e5m2": 1, "e8m0": 1}
_ALIASES = {
    "float64": "f64",
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "float8_e4m3fn": "e4m3",
    "float8_e5m2": "e5m2",
    "float8_e8m0fnu": "e8m0",
    "float": "f32",
    "half": "f16",
    "f8_e4m3": "e4m3",
    "f8_e5m2": "e5m2",
    "f8_e8m0": "e8m0",
}
# Unsigned integers stand for the codes of a type that numpy lacks: the caller names it.
RAW = {1: "uint8", 2: "uint16"}


def dtype_name(dtype: Any) -> str:
    """ "bf16" for "bf16", "bfloat16", torch.bfloat16, ml_dtypes.bfloat16 or its numpy dtype. ValueError for others."""
    if isinstance(dtype, type):
        dtype = np.dtype(dtype)
    text = str(getattr(dtype, "name", dtype)).removeprefix("torch.").lower()
    name = _ALIASES.get(text, text)
    if name not in CODES:
        raise ValueError(f"{dtype!r} is no element type of anyfp8; there are {', '.join(CODES)}")
    return name


def dtype_code(dtype: Any) -> int:
    return CODES[dtype_name(dtype)]


class Array(NamedTuple):
    """Where somebody else's array lies. `owner` keeps it there."""

    pointer: int
    dtype: str  # a name of CODES, or "uint8" and the like
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements
    device: str  # "cpu", "cuda:0"
    owner: Any

    @property
    def contiguous(self) -> bool:
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides)):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True


def is_torch(array: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def describe(array: Any, name: str) -> Array:
    """numpy arrays (with ml_dtypes), torch tensors, and what has __dlpack__ in host memory. TypeError for others."""
    if is_torch(array):
        text = str(array.dtype).removeprefix("torch.")
        device = "cpu" if array.device.type == "cpu" else f"{array.device.type}:{array.device.index}"
        return Array(array.data_ptr(), _ALIASES.get(text, text), tuple(array.shape), array.stride(), device, array)
    if not isinstance(array, np.ndarray):
        if not hasattr(array, "__dlpack__"):
            raise TypeError(f"{name} is a {type(array).__name__}; a numpy array or torch tensor is needed")
        array = np.from_dlpack(array)
    strides = tuple(stride // array.itemsize if array.itemsize else 0 for stride in array.strides)
    dtype = _ALIASES.get(array.dtype.name, array.dtype.name)
    return Array(array.__array_interface__["data"][0], dtype, array.shape, strides, "cpu", array)


def host_matrix(array: Any, name: str, dtype: Any = None) -> Array:
    """A contiguous [n, k] in host memory. dtype: what the codes of an array of uint8 or uint16 are."""
    found = describe(array, name)
    if found.device != "cpu":
        raise ValueError(f"{name} lies on {found.device}; host memory is needed: {name}.cpu()")
    if len(found.shape) != 2 or not found.contiguous:
        raise ValueError(
            f"{name} is {list(found.shape)} with strides {list(found.strides)}; a contiguous [n, k] is needed"
        )
    return with_dtype(found, name, dtype)


def with_dtype(found: Array, name: str, dtype: Any) -> Array:
    if found.dtype in CODES:
        if dtype is not None and dtype_name(dtype) != found.dtype:
            raise ValueError(f"{name} is {found.dtype} and said to be {dtype_name(dtype)}")
        return found
    if found.dtype not in RAW.values():
        raise ValueError(
            f"{name} is {found.dtype}; weights are {', '.join(CODES)}, or uint8 codes with their dtype named"
        )
    if dtype is None:
        raise ValueError(f'{name} is {found.dtype}: say what its codes are, such as dtype="e4m3"')
    meant = dtype_name(dtype)
    if RAW.get(BYTES[meant]) != found.dtype:
        raise ValueError(f"{name} is {found.dtype} and said to be {meant}, which has {BYTES[meant]} bytes an element")
    return found._replace(dtype=meant)


class _Memory:
    """Memory of the library as numpy sees it; numpy keeps this object, and it the owner."""

    def __init__(self, pointer: int, dtype: np.dtype, shape: tuple[int, ...], owner: Any):
        self.__array_interface__ = {
            "version": 3,
            "data": (pointer, True),  # read-only
            "typestr": dtype.str,
            "shape": shape,
        }
        self._owner = owner


def view(pointer: int, dtype: str, shape: tuple[int, ...], owner: Any) -> np.ndarray:
    """A read-only numpy array over the library's memory."""
    if math.prod(shape) == 0:
        return np.empty(shape, dtype)
    return np.asarray(_Memory(pointer, np.dtype(dtype), shape, owner))
