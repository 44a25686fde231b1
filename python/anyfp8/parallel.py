"""Layers that lie on several ranks: one process each, with MPI on CPUs and NCCL on GPUs.

    torchrun --nproc-per-node 2 script.py, or mpirun -n 2 python script.py

    import anyfp8, torch
    from anyfp8.parallel import ColumnParallelLinear, Comm, RowParallelLinear, shard

    comm = Comm("cuda")                                  # every rank its GPU; "cpu": MPI
    part = lambda weight, split: shard(weight, split, comm.rank, comm.size)
    up = ColumnParallelLinear(comm, part(up_weight, "column"))
    down = RowParallelLinear(comm, part(down_weight, "row"))
    y = down(up(x))                                      # x, y: [m, k], the same on every rank

Every rank makes the same calls in the same order. A rank that dies or does something else ends the calls of all others
with an OSError that names it. Inside of torch.distributed, Comm.from_process_group() takes the communicator that is there.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable, Sequence
from ctypes import byref, c_int32, c_int64
from typing import Any

import numpy as np

from . import _arrays, _library
from ._device import DeviceLike, as_device
from ._library import Handle, ParallelOptions
from ._linear import _numpy_rows, _numpy_type
from ._plan import linear_options
from ._weight import Weight

__all__ = [
    "ColumnParallelLinear",
    "Comm",
    "RowParallelLinear",
    "shard",
    "shard_merged",
    "shard_qkv",
    "shard_range",
    "token_range",
]

SPLITS = {"column": 1, "row": 2}


def _split(split: str) -> int:
    if split not in SPLITS:
        raise ValueError(f'split {split!r} is unknown; "column" is along n (outputs), "row" along k (inputs)')
    return SPLITS[split]


def _range(name: str, extent: int, rank: int, size: int) -> tuple[int, int]:
    begin, end = c_int64(), c_int64()
    _library.call(name, extent, rank, size, byref(begin), byref(end))
    return begin.value, end.value


def shard_range(extent: int, rank: int, size: int) -> tuple[int, int]:
    """What rank `rank` of `size` gets of n or k: [begin, end). Of extent and size alone, so the outputs of a column
    split are the inputs of the row split after it."""
    return _range("shard_range", extent, rank, size)


def token_range(m: int, rank: int, size: int) -> tuple[int, int]:
    """The tokens of m that a rank has in the sequence-parallel form: [begin, end)."""
    return _range("token_range", m, rank, size)


def shard(weight: Weight, split: str, rank: int, size: int) -> Weight:
    """Rank `rank`'s part of weight[n, k]: "column" along n, a view of the weight, or "row" along k, a copy. Scales keep
    their values; blocks and MX groups that are cut become finer. The bias goes with the outputs; of "row" rank 0 has it."""
    return Weight(
        Handle("weight", "weight_shard", weight._handle.value, _split(split), rank, size),
        weight._owners,
        bias_owner=weight._bias_owner,
    )


def shard_merged(weight: Weight, part_rows: Sequence[int], rank: int, size: int) -> Weight:
    """shard(..., "column") of a weight that is several stacked along n, split part by part: gate/up is [ffn, ffn]."""
    rows = (c_int64 * max(1, len(part_rows)))(*part_rows)
    return Weight(
        Handle("weight", "weight_shard_merged", weight._handle.value, rows, len(part_rows), rank, size),
        weight._owners,
        bias_owner=weight._bias_owner,
    )


def shard_qkv(weight: Weight, heads: int, kv_heads: int, head_dim: int, rank: int, size: int) -> Weight:
    """shard(..., "column") of fused q/k/v [(heads + 2 kv_heads) head_dim, k]: whole kv heads with all their q heads;
    fewer kv heads than ranks are on several ranks each."""
    return Weight(
        Handle("weight", "weight_shard_qkv", weight._handle.value, heads, kv_heads, head_dim, rank, size),
        weight._owners,
        bias_owner=weight._bias_owner,
    )


def _local_rank() -> int:
    place = c_int32()
    _library.call("launched_as", None, None, byref(place))
    return place.value


def _offer_nccl() -> None:
    """A wheel's NCCL lies where the loader does not look; torch has loaded its own."""
    if "torch" not in sys.modules:
        for found in _library._wheels("libnccl.so.2"):
            ctypes.CDLL(str(found), mode=ctypes.RTLD_GLOBAL)
            break


class _Buffer:
    """Contiguous memory of an array on the Comm's device."""

    def __init__(self, comm: Comm, array: Any, name: str, size: int | None = None):
        found = _arrays.describe(array, name)
        kind = "bf16" if found.dtype == "uint16" else found.dtype
        if kind not in ("f32", "f16", "bf16"):
            raise ValueError(f"{name} is {found.dtype}; f32, f16 and bf16 (or uint16 codes of it) can be sent")
        if found.device != comm.device or not found.contiguous:
            raise ValueError(f"{name} lies on {found.device}; contiguous memory on {comm.device} is needed")
        self.count = int(np.prod(found.shape))
        if size is not None and self.count != size:
            raise ValueError(f"{name} has {self.count} elements; {size} are needed")
        self.pointer, self.dtype = found.pointer, _arrays.CODES[kind]


class Comm:
    """The ranks that this process was launched with, by mpirun, srun or torchrun; started alone it is one.

    device: "cpu" (MPI) or "cuda", each rank the GPU of its place on the machine; or "cuda:1" (NCCL).
    on_lost: called with the reason when a rank is lost, on a thread of the library's; it may end the process.

    All ranks make the same calls in the same order, from one thread at a time. OSError names the rank that was lost or
    does something else; then nothing more can be done with it. NotImplementedError says what is not installed.
    """

    def __init__(self, device: DeviceLike = "cpu", *, on_lost: Callable[[str], None] | None = None):
        name = f"cuda:{_local_rank()}" if str(device) == "cuda" else device
        opened = as_device(name)
        if opened.kind == "cuda":
            _offer_nccl()
        callback = _library.LOST_CALLBACK()
        if on_lost is not None:
            callback = _library.LOST_CALLBACK(lambda reason, _: on_lost(reason.decode("utf-8", "replace")))
        self._set(Handle("comm", "comm_open", opened._handle.value, callback, None, keeps=callback), None)

    def _set(self, handle: Handle, owner: Any) -> None:
        self._handle = handle
        self._owner = owner
        about = json.loads(_library.text_of("comm_json", handle.value))
        self.rank: int = about["rank"]
        self.size: int = about["size"]
        self.device: str = about["device"]
        #: "mpi", "nccl", or "self" for one rank.
        self.engine: str = about["engine"]

    @classmethod
    def from_process_group(cls, group: Any = None, device: Any = None) -> Comm:
        """The ranks of a torch.distributed process group (None: all), on its NCCL communicator, which stays the group's:
        it watches over it, and its calls and the Comm's are in the same order on every rank. device: of the group's
        GPU, None: the current one. ValueError for a group that is not NCCL's."""
        import torch
        import torch.distributed as distributed

        where = torch.device("cuda", torch.cuda.current_device()) if device is None else torch.device(device)
        group = distributed.group.WORLD if group is None else group
        backend = group._get_backend(where) if "cuda" in str(group._device_types) else None
        pointer = getattr(backend, "_comm_ptr", None)
        if pointer is None:
            raise ValueError(f"the process group's backend for {where} is not NCCL, whose communicator is needed")
        # It makes its communicator when it is first used.
        distributed.all_reduce(torch.zeros(1, device=where), group=group)
        torch.cuda.synchronize(where)
        comm = cls.__new__(cls)
        comm._on_lost = None
        opened = as_device(str(where))
        comm._set(Handle("comm", "comm_adopt_nccl", opened._handle.value, pointer()), group)
        return comm

    def check(self) -> None:
        """OSError once a rank is lost: to be asked after waiting for a GPU, whose results are worthless then."""
        _library.call("comm_check", self._handle.value)

    def all_reduce(self, x: Any, out: Any = None, *, stream: int | None = None) -> Any:
        """The sum over the ranks of x, any shape, contiguous, f32, f16 or bf16 (numpy: or uint16 codes of it), on this
        device; the same on every rank. out: where to, of another type too; None: x itself. On a GPU it is queued on the
        stream (its address; None: torch's current one), and may be captured in a graph."""
        out = x if out is None else out
        given = _Buffer(self, x, "x")
        result = _Buffer(self, out, "out", given.count)
        size = _library.size_of("comm_scratch_bytes", self._handle.value, given.count, given.dtype, result.dtype)
        arguments = (given.pointer, given.dtype, result.pointer, result.dtype, given.count)
        self._run("comm_all_reduce", arguments, size, stream)
        return out

    def all_gather(self, x: Any, out: Any, counts: Sequence[int] | None = None, *, stream: int | None = None) -> Any:
        """Every rank's x one after the other in `out`. counts: elements of each rank; None: as many as x on all."""
        given = _Buffer(self, x, "x")
        each = self._counts(counts, given.count)
        result = _Buffer(self, out, "out", sum(each))
        if given.count != each[self.rank] or given.dtype != result.dtype:
            raise ValueError(f"x has {given.count} elements, counts {each[self.rank]} for this rank, of out's type")
        size = _library.size_of("comm_scratch_bytes", self._handle.value, sum(each), given.dtype, given.dtype)
        arguments = (given.pointer, result.pointer, given.dtype, (c_int64 * self.size)(*each))
        self._run("comm_all_gather", arguments, size, stream)
        return out

    def reduce_scatter(
        self, x: Any, out: Any, counts: Sequence[int] | None = None, *, stream: int | None = None
    ) -> Any:
        """This rank's part of the sum over the ranks of x. counts: elements of each rank; None: as many as out on all."""
        given, result = _Buffer(self, x, "x"), _Buffer(self, out, "out")
        each = self._counts(counts, result.count)
        if given.count != sum(each) or result.count != each[self.rank]:
            raise ValueError(f"x has {given.count} elements and out {result.count}; counts says {list(each)}")
        size = _library.size_of("comm_scratch_bytes", self._handle.value, given.count, given.dtype, result.dtype)
        arguments = (given.pointer, given.dtype, result.pointer, result.dtype, (c_int64 * self.size)(*each))
        self._run("comm_reduce_scatter", arguments, size, stream)
        return out

    def broadcast(self, x: Any, root: int = 0, *, stream: int | None = None) -> Any:
        """Rank root's x to every rank's; contiguous memory of this device."""
        given = _Buffer(self, x, "x")
        width = {code: _arrays.BYTES[name] for name, code in _arrays.CODES.items()}[given.dtype]
        _library.call("comm_broadcast", self._handle.value, given.pointer, given.count * width, root, self._stream(stream))
        return x

    def barrier(self, *, stream: int | None = None) -> None:
        """No rank comes out before all have come in; on a GPU: no rank's stream."""
        _library.call("comm_barrier", self._handle.value, self._stream(stream))

    def _counts(self, counts: Sequence[int] | None, own: int) -> list[int]:
        each = [own] * self.size if counts is None else list(counts)
        if len(each) != self.size:
            raise ValueError(f"counts has {len(each)} entries; there are {self.size} ranks")
        return each

    def _stream(self, stream: int | None) -> int | None:
        if stream is None and self.device != "cpu" and "torch" in sys.modules:
            from . import _torch_call

            return _torch_call.current_stream(int(self.device.removeprefix("cuda:")))
        return stream

    def _scratch(self, size: int) -> tuple[int | None, Any]:
        """Its address, and what keeps it: torch's allocator knows streams and graphs."""
        if not size:
            return None, None
        if self.device == "cpu":
            memory = np.empty(size + 64, np.uint8)
            address = memory.__array_interface__["data"][0]
            return address + -address % 64, memory
        import torch

        scratch = torch.empty(size, dtype=torch.uint8, device=self.device)
        return scratch.data_ptr(), scratch

    def _run(self, name: str, arguments: tuple[Any, ...], size: int, stream: int | None) -> None:
        scratch, _keep = self._scratch(size)
        _library.call(name, self._handle.value, *arguments, scratch, size, self._stream(stream))

    def __repr__(self) -> str:
        return f"<anyfp8.Comm rank {self.rank} of {self.size} on {self.device} ({self.engine})>"


class _ParallelLinear:
    _split: str

    def __init__(
        self,
        comm: Comm,
        shard: Weight,
        *,
        dtype: Any = "bf16",
        out_dtype: Any = None,
        policy: str | None = None,
        sequence_parallel: bool = False,
        gather_output: bool = False,
        reduce_in_f32: bool | None = None,
    ):
        self.comm = comm
        self.dtype: str = _arrays.dtype_name(dtype)
        self.out_dtype: str = _arrays.dtype_name(dtype if out_dtype is None else out_dtype)
        self.sequence_parallel = sequence_parallel
        options = linear_options(dtype, out_dtype, policy)
        parallel = ParallelOptions(struct_size=ctypes.sizeof(ParallelOptions), split=SPLITS[self._split])
        parallel.sequence_parallel, parallel.gather_output = int(sequence_parallel), int(gather_output)
        parallel.reduce = {None: 0, True: 1, False: 2}[reduce_in_f32]
        self._handle = Handle(
            "parallel_linear",
            "parallel_linear_create",
            comm._handle.value,
            shard._handle.value,
            byref(parallel),
            byref(options),
            comm._stream(None),
            keeps=comm._handle,  # the library's layer shares its Comm
        )
        self._owners = shard._owners, shard._bias_owner
        cols = c_int64(), c_int64()
        _library.call("parallel_linear_shape", self._handle.value, byref(cols[0]), byref(cols[1]))
        #: Columns of x and of y on this rank.
        self.x_cols, self.y_cols = cols[0].value, cols[1].value

    def apply(self, x: Any, out: Any = None, *, tokens: int | None = None, stream: int | None = None) -> Any:
        """y of x, both on this rank. x: [m, x_cols], of `dtype`; a numpy array or torch tensor of the Comm's device.

        out: y's memory, [m, y_cols] of out_dtype, contiguous; None: new. tokens: m of all ranks together; needed where x
        has this rank's tokens alone, a sequence-parallel column split. stream: as of Comm.all_reduce().
        """
        scattered = self.sequence_parallel and self.comm.size > 1
        if scattered and self._split == "column" and tokens is None:
            raise ValueError("x has the tokens of this rank; `tokens` must say how many all ranks have together")
        m = x.shape[0] if tokens is None else tokens
        begin, end = token_range(m, self.comm.rank, self.comm.size) if scattered else (0, m)
        x_rows, y_rows = (end - begin, m) if self._split == "column" else (m, end - begin)
        if out is None:
            out = self._new(x, y_rows)
        given = _rows(x, "x", x_rows, self.x_cols, self.dtype, self.comm.device)
        result = _rows(out, "out", y_rows, self.y_cols, self.out_dtype, self.comm.device)
        size = _library.size_of("parallel_linear_workspace_bytes", self._handle.value, m)
        scratch, _keep = self.comm._scratch(size)
        where = (given[0], given[1], result[0], result[1], m, scratch, size, self.comm._stream(stream))
        _library.call("parallel_linear_apply", self._handle.value, *where)
        return out

    __call__ = apply

    def _new(self, x: Any, rows: int) -> Any:
        if _arrays.is_torch(x):
            import torch

            from . import _torch_call

            return torch.empty((rows, self.y_cols), dtype=_torch_call.TYPES[self.out_dtype], device=x.device)
        kind = x.dtype if self.out_dtype == self.dtype else _numpy_type(self.out_dtype)
        return np.empty((rows, self.y_cols), kind)

    def explain(self) -> str:
        """Which kernel for which m on this rank, and why not the others."""
        return _library.text_of("parallel_linear_explain", self._handle.value)

    @property
    def resident_bytes(self) -> int:
        """Bytes of this rank's weight, scales and bias as they lie on the device."""
        return _library.size_of("parallel_linear_resident_bytes", self._handle.value)


def _rows(array: Any, name: str, rows: int, cols: int, dtype: str, device: str) -> tuple[int, int]:
    """Address and row stride of array[rows, cols]."""
    found = _arrays.describe(array, name)
    kind = "bf16" if found.dtype == "uint16" else found.dtype
    if found.shape != (rows, cols) or kind != dtype or found.device != device or not found.contiguous:
        raise ValueError(
            f"{name} is {found.dtype} {list(found.shape)} on {found.device}; {dtype} {[rows, cols]} on {device}, "
            "contiguous, is needed on this rank"
        )
    return found.pointer, cols


class ColumnParallelLinear(_ParallelLinear):
    """y = x · Wᵀ + bias, each rank some of the outputs: x [m, k] -> y [m, n of this rank], with the bits it has on one
    (on GPUs with policy "invariant").

    comm: outlived by the layer or not, it stays open. shard: this rank's rows of the weight, from shard(weight, "column",
    ...), shard_merged() or shard_qkv(). dtype, out_dtype: of x and y, "bf16", "f16" or "f32" (CPU). policy: as of
    init_fp8_linear_kernel(). sequence_parallel: x has token_range(m, ...) of the tokens, which are gathered first.
    gather_output: y is [m, n of all ranks] on every rank.

    All ranks create it; ValueError on every rank when they do not agree.
    """

    _split = "column"

    def __init__(
        self,
        comm: Comm,
        shard: Weight,
        *,
        dtype: Any = "bf16",
        out_dtype: Any = None,
        policy: str | None = None,
        sequence_parallel: bool = False,
        gather_output: bool = False,
    ):
        super().__init__(
            comm,
            shard,
            dtype=dtype,
            out_dtype=out_dtype,
            policy=policy,
            sequence_parallel=sequence_parallel,
            gather_output=gather_output,
        )


class RowParallelLinear(_ParallelLinear):
    """y = x · Wᵀ + bias, each rank some of the inputs: x [m, k of this rank] -> y [m, n], the sum over the ranks.

    shard: this rank's columns of the weight, from shard(weight, "row", ...); one rank's has the bias. sequence_parallel:
    y has token_range(m, ...) of the tokens. reduce_in_f32: the ranks' products are summed as f32 and rounded once, else
    each is rounded to y's type first; None: f32 on CPUs, y's type on GPUs, whose fast kernels write no f32. The rest as
    of ColumnParallelLinear.
    """

    _split = "row"

    def __init__(
        self,
        comm: Comm,
        shard: Weight,
        *,
        dtype: Any = "bf16",
        out_dtype: Any = None,
        policy: str | None = None,
        sequence_parallel: bool = False,
        reduce_in_f32: bool | None = None,
    ):
        super().__init__(
            comm,
            shard,
            dtype=dtype,
            out_dtype=out_dtype,
            policy=policy,
            sequence_parallel=sequence_parallel,
            reduce_in_f32=reduce_in_f32,
        )
