from __future__ import annotations

import json
import threading
from ctypes import byref
from typing import Any
from collections.abc import Sequence

import numpy as np

from . import _arrays, _library
from ._device import Device, DeviceLike, as_device
from ._library import Handle, raise_error
from ._plan import Selection, linear_options
from ._weight import Weight, dequantized

_apply = _library.lib.anyfp8_linear_apply
_apply_with = _library.lib.anyfp8_linear_apply_with

_FLOATS = ("f32", "f16", "bf16")


class _Workspace(threading.local):
    """Scratch memory on the CPU: one a thread, for all layers."""

    bytes = 0

    def __init__(self) -> None:
        self._handle = Handle("workspace", "workspace_create", as_device("cpu")._handle.value)
        self.value = self._handle.value

    def reserve(self, size: int) -> None:
        _library.call("workspace_reserve", self.value, size)
        self.bytes = size


_workspace = _Workspace()


class Linear:
    """A linear layer ready to run: y[m, n] = x[m, k] · Wᵀ + bias.

    weight: is placed on the device, one byte a parameter, and may be dropped afterwards. device: "cpu", "cuda:0".
    dtype, out_dtype: of x and y, "bf16", "f16" or "f32" (CPU); out_dtype None: as x. policy, force, disable: as of
    init_fp8_linear_kernel(). stream: a CUDA stream's address that the copy to the device is queued on (0: the default).

    Refuses here what could fail later: ValueError for a weight with NaN codes or scales that do not fit,
    NotImplementedError with each kernel's reason when nothing can run the layer. May be used from several threads at
    once, but for update_weights().
    """

    def __init__(
        self,
        weight: Weight,
        device: DeviceLike = "cpu",
        *,
        dtype: Any = "bf16",
        out_dtype: Any = None,
        policy: str | None = None,
        force: str | None = None,
        disable: Sequence[str] | None = None,
        stream: int | None = None,
    ):
        self.device: Device = as_device(device)
        self.n, self.k = weight.n, weight.k
        self.dtype: str = _arrays.dtype_name(dtype)
        self.out_dtype: str = _arrays.dtype_name(dtype if out_dtype is None else out_dtype)
        self.policy = policy
        options = linear_options(dtype, out_dtype, policy, force, disable)
        self._handle = Handle(
            "linear", "linear_create", self.device._handle.value, weight._handle.value, byref(options), stream
        )
        self._address = self._handle.value
        self._scratch_bytes: dict[int, int] = {}  # by m
        self._cuda_index = self.device.index if self.device.kind == "cuda" else -1
        self._keep(weight)

    def _keep(self, weight: Weight) -> None:
        """What the placed weight still refers to: on the CPU the bias, and codes that are not packed."""
        self._owners: tuple[Any, ...] = ()
        if self.device.kind == "cpu":
            packed = weight.scale_dtype is not None and self.selection.layout != "row_major"
            self._owners = (weight._bias_owner,) if packed else (weight._owners, weight._bias_owner)

    def apply(self, x: Any, out: Any = None, *, stream: int | None = None) -> Any:
        """x[..., k] -> y[..., n]: a numpy array of a numpy array, a torch tensor of a torch tensor.

        x: of `dtype`, on the layer's device. numpy: bf16 as ml_dtypes has it, or uint16 codes, and y likewise. Rows
          may be any distance apart; an x whose rows are not contiguous is copied first.
        out: y's memory, [..., n] of out_dtype with contiguous rows; None: new.
        stream: a CUDA stream's address to queue the work on; None: torch's current one. Nothing is waited for, and a
          CUDA graph may capture it.

        Gradients do not flow through (anyfp8.torch says so). ValueError for other shapes and types, RuntimeError
        from CUDA.
        """
        if type(x) is np.ndarray:
            return self._apply_numpy(x, out)
        if _arrays.is_torch(x):
            from . import _torch_call

            return _torch_call.apply_torch(self, x, out, stream=stream)
        return self._apply_numpy(x if isinstance(x, np.ndarray) else np.from_dlpack(x), out)

    __call__ = apply

    def scratch_bytes(self, m: int) -> int:
        """Scratch memory that m tokens take on the device."""
        size = self._scratch_bytes.get(m)
        if size is None:
            if len(self._scratch_bytes) > 4096:
                self._scratch_bytes.clear()
            size = self._scratch_bytes[m] = _library.size_of("linear_workspace_bytes", self._address, m)
        return size

    def on_cpu(self, x: int, x_stride: int, y: int, y_stride: int, m: int) -> None:
        """apply() of addresses and row strides in elements, with this thread's workspace."""
        size = self._scratch_bytes.get(m)
        if size is None:
            size = self.scratch_bytes(m)
        if size > _workspace.bytes:
            _workspace.reserve(size)
        code = _apply(self._address, x, x_stride, y, y_stride, m, _workspace.value, None)
        if code:
            raise_error(code)

    def on_cuda(
        self, x: int, x_stride: int, y: int, y_stride: int, m: int, scratch: int, size: int, stream: int
    ) -> None:
        """apply() of addresses on the device, with the caller's scratch memory."""
        code = _apply_with(self._address, x, x_stride, y, y_stride, m, scratch, size, stream)
        if code:
            raise_error(code)

    def _apply_numpy(self, x: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        if self._cuda_index >= 0:
            raise ValueError(f"x is a numpy array and the layer lies on {self.device.name}; it needs memory there")
        rows = _numpy_rows(x, self.k, self.dtype, "x")
        if rows is None:
            x = np.ascontiguousarray(x)
            rows = _numpy_rows(x, self.k, self.dtype, "x")
            assert rows is not None
        shape = (*x.shape[:-1], self.n)
        if out is None:
            out = np.empty(shape, x.dtype if self.out_dtype == self.dtype else _numpy_type(self.out_dtype))
        elif out.shape != shape:
            raise ValueError(f"out is {list(out.shape)}; x {list(x.shape)} gives {list(shape)}")
        result = _numpy_rows(out, self.n, self.out_dtype, "out")
        if result is None or not out.flags.writeable:
            raise ValueError("out must be writeable, with contiguous rows at one distance")
        self.on_cpu(rows[0], rows[1], result[0], result[1], rows[2])
        return out

    def update_weights(self, weight: Weight, *, stream: int | None = None) -> None:
        """Another weight of the same n, k, scheme and bias, in place, so that captured CUDA graphs see it. No apply()
        may run meanwhile, on a GPU on another stream than this one."""
        _library.call("linear_update_weights", self._address, weight._handle.value, stream)
        self._keep(weight)

    def weight(self) -> Weight:
        """The weight as it was placed, bit for bit, in host memory (a copy, unless it lies there as it is); the bias
        may have become float32."""
        return Weight(Handle("weight", "linear_weight", self._address), self._owners, bias_owner=self._owners)

    def dequantize(self, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Rows [begin, end) of data * scale, float32 [end - begin, k] in host memory."""
        return dequantized("linear_dequantize", self._handle, begin, self.n if end is None else end, self.k)

    @property
    def selection(self) -> Selection:
        plan = json.loads(_library.text_of("linear_plan_json", self._address))
        return Selection(_library.text_of("linear_explain", self._address), plan)

    def explain(self) -> str:
        """Which kernel for which m, and why not the others."""
        return self.selection.explain()

    @property
    def resident_bytes(self) -> int:
        """Bytes of weight, scales and bias as they lie on the device."""
        return _library.size_of("linear_resident_bytes", self._address)

    def __repr__(self) -> str:
        return (
            f"<anyfp8.Linear [{self.n}, {self.k}] on {self.device.name}, {self.dtype}: {self.selection.ranges_text()}>"
        )


def _numpy_type(dtype: str) -> Any:
    return {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}[dtype]


def _numpy_rows(x: np.ndarray, cols: int, dtype: str, name: str) -> tuple[int, int, int] | None:
    """Address, row stride and rows of x[..., cols]; None where it is not rows at one distance."""
    kind = x.dtype.name
    if _arrays._ALIASES.get(kind) != dtype and not (kind == "uint16" and dtype == "bf16"):
        raise ValueError(f"{name} is {kind}; this layer's is {dtype}")
    if x.ndim == 0 or x.shape[-1] != cols:
        raise ValueError(f"{name} is {list(x.shape)}; its last extent must be {cols}")
    pointer = x.__array_interface__["data"][0]
    if x.flags.c_contiguous:
        return pointer, cols, x.size // cols
    if x.ndim != 2 or x.strides[1] != x.itemsize or x.strides[0] % x.itemsize or x.strides[0] < cols * x.itemsize:
        return None
    return pointer, x.strides[0] // x.itemsize, x.shape[0]
