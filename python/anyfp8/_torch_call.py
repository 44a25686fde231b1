"""Linear.apply() on torch tensors: what each call pays, and nothing else (measured in tests/test_torch.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ._linear import Linear

TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def current_stream(index: int) -> int:
    return torch.cuda.current_stream(index).cuda_stream


# The same address without the object around it, where torch has it.
current_stream = getattr(torch._C, "_cuda_getCurrentRawStream", current_stream)


def apply_torch(
    layer: Linear, x: torch.Tensor, out: torch.Tensor | None = None, *, stream: int | None = None
) -> torch.Tensor:
    if x.dtype is not TYPES[layer.dtype]:
        raise ValueError(f"x is {x.dtype}; this layer was made for {TYPES[layer.dtype]}")
    if x.get_device() != layer._cuda_index:
        raise ValueError(f"x lies on {x.device} and the layer on {layer.device.name}")
    shape = x.shape
    if len(shape) == 2:
        m, k = shape
        if x.stride(1) != 1 or x.stride(0) < k:
            x = x.contiguous()
        rows = x
    else:
        k = shape[-1] if shape else 0
        rows = x.reshape(-1, k) if k else x
        if k and rows.stride(1) != 1:
            rows = rows.contiguous()
        m = rows.shape[0] if k else 0
    n = layer.n
    if k != layer.k:
        raise ValueError(f"x is {list(shape)}; its last extent must be {layer.k}")
    if out is None:
        y = result = torch.empty((m, n), dtype=TYPES[layer.out_dtype], device=x.device)
        if len(shape) != 2:
            result = y.view(*shape[:-1], n)
    else:
        y, result = _rows_of(out, layer, (*shape[:-1], n)), out
    x_stride, y_stride = (rows.stride(0), y.stride(0)) if m > 1 else (k, n)
    if layer._cuda_index < 0:
        layer.on_cpu(rows.data_ptr(), x_stride, y.data_ptr(), y_stride, m)
        return result
    if stream is None:
        stream = current_stream(layer._cuda_index)
    # From torch's allocator: it is reused in the order of the stream, and belongs to a graph that is being captured.
    size = layer.scratch_bytes(m)
    scratch = torch.empty(size, dtype=torch.uint8, device=x.device) if size else None
    layer.on_cuda(
        rows.data_ptr(), x_stride, y.data_ptr(), y_stride, m, 0 if scratch is None else scratch.data_ptr(), size, stream
    )
    return result


def _rows_of(out: torch.Tensor, layer: Linear, shape: tuple[int, ...]) -> torch.Tensor:
    if out.dtype is not TYPES[layer.out_dtype] or out.shape != shape or out.get_device() != layer._cuda_index:
        raise ValueError(
            f"out is {out.dtype} {list(out.shape)} on {out.device}; {TYPES[layer.out_dtype]} {list(shape)} on "
            f"{layer.device.name} is needed"
        )
    try:
        rows = out.view(-1, layer.n)
    except RuntimeError:
        rows = None
    if rows is None or (layer.n > 1 and rows.stride(1) != 1) or (rows.shape[0] > 1 and rows.stride(0) < layer.n):
        raise ValueError(f"out has strides {list(out.stride())}; contiguous rows at one distance are needed")
    return rows
