"""The shared library: where it is found, what its functions take, how its errors become Python's."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from ctypes import POINTER, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any
from collections.abc import Callable, Iterator

ABI_VERSION = 1

# Codes of c_api.h.
NOT_FOUND = 2
_EXCEPTIONS: dict[int, type[Exception]] = {
    1: ValueError,  # ANYFP8_INVALID_ARGUMENT
    2: ValueError,  # ANYFP8_NOT_FOUND: a tensor or kernel; FileNotFoundError where a path was asked for
    3: ValueError,  # ANYFP8_INVALID_FILE
    4: NotImplementedError,  # ANYFP8_UNSUPPORTED, a RuntimeError
    5: OSError,  # ANYFP8_IO
    6: RuntimeError,  # ANYFP8_CUDA_ERROR
    7: RuntimeError,  # ANYFP8_INTERNAL
    8: MemoryError,  # ANYFP8_OUT_OF_MEMORY
}


class Layer(ctypes.Structure):
    """anyfp8_layer"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("n", c_int64),
        ("k", c_int64),
        ("weight_dtype", c_int32),
        ("group_rows", c_int32),
        ("group_cols", c_int32),
        ("scale_dtype", c_int32),
        ("bias_dtype", c_int32),
        ("activation", c_int32),
        ("activation_rows", c_int32),
        ("activation_cols", c_int32),
        ("reserved", c_int32),
        ("input_scale_ub", c_float),
        ("reserved_2", c_int32),
    ]


class LinearOptions(ctypes.Structure):
    """anyfp8_linear_options"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("in_dtype", c_int32),
        ("out_dtype", c_int32),
        ("policy", c_int32),
        ("ignore_build", c_int32),
        ("force", c_char_p),
        ("disable", POINTER(c_char_p)),
        ("disable_count", c_size_t),
    ]


class ParallelOptions(ctypes.Structure):
    """anyfp8_parallel_options"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("split", c_int32),
        ("sequence_parallel", c_int32),
        ("gather_output", c_int32),
        ("reduce", c_int32),
    ]


#: anyfp8_lost_callback
LOST_CALLBACK = ctypes.CFUNCTYPE(None, c_char_p, c_void_p)

# Handles are void pointers; a text result is a pointer, since it has to be freed.
_HANDLE, _TEXT, _BYTES = POINTER(c_void_p), POINTER(c_void_p), [POINTER(c_void_p), POINTER(c_size_t)]
_SELECT = [c_void_p, POINTER(Layer), POINTER(LinearOptions), _TEXT]
_ROWS = [c_void_p, c_int64, c_int64, c_void_p, c_size_t]
_MATRICES = [c_void_p, c_void_p, c_int64, c_void_p, c_int64, c_int64]
_RANGE, _SCRATCH = [POINTER(c_int64), POINTER(c_int64)], [c_void_p, c_size_t, c_void_p]
_FUNCTIONS: dict[str, list[Any]] = {
    "set_num_threads": [c_int],
    "load_plugin": [c_char_p],
    "kernels_json": [_TEXT],
    "device_count": [POINTER(c_int)],
    "device_open": [c_char_p, _HANDLE],
    "device_at": [c_int, _HANDLE],
    "device_json": [c_void_p, _TEXT],
    "checkpoint_open": [c_char_p, _HANDLE],
    "checkpoint_tensors_json": [c_void_p, _TEXT],
    "checkpoint_tensor": [c_void_p, c_char_p, *_BYTES],
    "checkpoint_inspect_json": [c_void_p, _TEXT],
    "weight_load": [c_void_p, c_char_p, _HANDLE],
    "weight_borrow": [POINTER(Layer), c_void_p, c_void_p, c_void_p, POINTER(c_float), _HANDLE],
    "weight_quantize": [c_void_p, c_int32, c_int64, c_int64, c_char_p, _HANDLE],
    "weight_merge": [POINTER(c_void_p), c_size_t, _HANDLE],
    "weight_json": [c_void_p, _TEXT],
    "weight_data": [c_void_p, *_BYTES],
    "weight_scale": [c_void_p, *_BYTES],
    "weight_bias": [c_void_p, *_BYTES],
    "weight_dequantize": _ROWS,
    "select_text": _SELECT,
    "select_json": _SELECT,
    "linear_create": [c_void_p, c_void_p, POINTER(LinearOptions), c_void_p, _HANDLE],
    "linear_apply": [*_MATRICES, c_void_p, c_void_p],
    "linear_apply_with": [*_MATRICES, c_void_p, c_size_t, c_void_p],
    "linear_workspace_bytes": [c_void_p, c_int64, POINTER(c_size_t)],
    "linear_update_weights": [c_void_p, c_void_p, c_void_p],
    "linear_dequantize": _ROWS,
    "linear_weight": [c_void_p, _HANDLE],
    "linear_explain": [c_void_p, _TEXT],
    "linear_plan_json": [c_void_p, _TEXT],
    "linear_resident_bytes": [c_void_p, POINTER(c_size_t)],
    "shard_range": [c_int64, c_int32, c_int32, *_RANGE],
    "token_range": [c_int64, c_int32, c_int32, *_RANGE],
    "weight_shard": [c_void_p, c_int32, c_int32, c_int32, _HANDLE],
    "weight_shard_merged": [c_void_p, POINTER(c_int64), c_size_t, c_int32, c_int32, _HANDLE],
    "weight_shard_qkv": [c_void_p, c_int64, c_int64, c_int64, c_int32, c_int32, _HANDLE],
    "launched_as": [POINTER(c_int32), POINTER(c_int32), POINTER(c_int32)],
    "comm_open": [c_void_p, LOST_CALLBACK, c_void_p, _HANDLE],
    "comm_adopt_nccl": [c_void_p, c_void_p, _HANDLE],
    "comm_json": [c_void_p, _TEXT],
    "comm_check": [c_void_p],
    "comm_scratch_bytes": [c_void_p, c_int64, c_int32, c_int32, POINTER(c_size_t)],
    "comm_all_reduce": [c_void_p, c_void_p, c_int32, c_void_p, c_int32, c_int64, *_SCRATCH],
    "comm_all_gather": [c_void_p, c_void_p, c_void_p, c_int32, POINTER(c_int64), *_SCRATCH],
    "comm_reduce_scatter": [c_void_p, c_void_p, c_int32, c_void_p, c_int32, POINTER(c_int64), *_SCRATCH],
    "comm_broadcast": [c_void_p, c_void_p, c_size_t, c_int32, c_void_p],
    "comm_barrier": [c_void_p, c_void_p],
    "parallel_linear_create": [
        c_void_p,
        c_void_p,
        POINTER(ParallelOptions),
        POINTER(LinearOptions),
        c_void_p,
        _HANDLE,
    ],
    "parallel_linear_apply": [*_MATRICES, *_SCRATCH],
    "parallel_linear_workspace_bytes": [c_void_p, c_int64, POINTER(c_size_t)],
    "parallel_linear_shape": [c_void_p, *_RANGE],
    "parallel_linear_explain": [c_void_p, _TEXT],
    "parallel_linear_resident_bytes": [c_void_p, POINTER(c_size_t)],
    "workspace_create": [c_void_p, _HANDLE],
    "workspace_reserve": [c_void_p, c_size_t],
}
_FREES = ("device", "checkpoint", "weight", "linear", "workspace", "string", "comm", "parallel_linear")


def _library_path() -> Path:
    named = os.environ.get("ANYFP8_LIBRARY")
    path = Path(named) if named else Path(__file__).parent / "libanyfp8.so"
    if not path.is_file():
        raise OSError(
            f"{path} does not exist; "
            + (
                "ANYFP8_LIBRARY must name a built libanyfp8.so"
                if named
                else "install the package (pip install .), or name a built libanyfp8.so in ANYFP8_LIBRARY"
            )
        )
    return path


def _wheels(name: str) -> Iterator[Path]:
    for entry in sys.path:
        yield from sorted(Path(entry or ".").glob(f"nvidia/*/lib/{name}"))


def _places(name: str) -> Iterator[Path]:
    """Where a library may be that the loader did not find: a wheel has its own libgomp, pip and the toolkit put cuBLASLt
    where nobody looks. One that the process has already, by whatever path, is found without this."""
    yield Path(__file__).parent / name
    yield from _wheels(name)
    for root in (os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        if root:
            yield Path(root, "lib64", name)


def _open(path: Path) -> ctypes.CDLL:
    # The first cuBLASLt that is loaded serves torch too, which may need a newer one than the toolkit's: its own, then.
    if cublas := re.search(rb"libcublasLt\.so\.\d+", path.read_bytes()):
        for found in _wheels(cublas[0].decode()):
            ctypes.CDLL(str(found), mode=ctypes.RTLD_GLOBAL)
            break
    needed: set[str] = set()
    while True:
        try:
            return ctypes.CDLL(str(path))
        except OSError as error:
            missing = re.match(r"(lib(?:gomp|cublasLt)\.so\.\d+): cannot open", str(error))
            if missing is None or missing[1] in needed:
                raise
            needed.add(missing[1])
            found = next((place for place in _places(missing[1]) if place.is_file()), None)
            if found is None:
                cure = "pip install nvidia-cublas or torch brings it, and so does the CUDA toolkit"
                raise OSError(
                    f"{path} needs {missing[1]}, which is in no folder searched; "
                    + (cure if "cublas" in missing[1] else "the package libgomp1 has it")
                ) from error
            ctypes.CDLL(str(found), mode=ctypes.RTLD_GLOBAL)


def _load() -> ctypes.CDLL:
    path = _library_path()
    library = _open(path)
    try:
        version = library.anyfp8_abi_version()
        for name, arguments in _FUNCTIONS.items():
            getattr(library, f"anyfp8_{name}").argtypes = arguments
        for name in _FREES:
            free = getattr(library, f"anyfp8_{name}_free")
            free.argtypes, free.restype = [c_void_p], None
    except AttributeError as error:
        raise OSError(f"{path} is no anyfp8, or an older one than this package: {error}") from None
    if version != ABI_VERSION:
        raise OSError(f"{path} has ABI version {version}; this package needs {ABI_VERSION}")
    library.anyfp8_version.restype = c_char_p
    library.anyfp8_last_error.restype = c_char_p
    return library


lib = _load()
__version__: str = lib.anyfp8_version().decode()


def raise_error(code: int, path: bool = False) -> None:
    """Raises what a function's code other than 0 means, with the library's sentence."""
    kind = FileNotFoundError if path and code == NOT_FOUND else _EXCEPTIONS.get(code, RuntimeError)
    raise kind(lib.anyfp8_last_error().decode("utf-8", "replace"))


def call(name: str, *arguments: Any) -> None:
    code = getattr(lib, f"anyfp8_{name}")(*arguments)
    if code:
        raise_error(code, path=name in ("checkpoint_open", "load_plugin"))


def text_of(name: str, *arguments: Any) -> str:
    """The text result of a function, freed."""
    result = c_void_p()
    call(name, *arguments, ctypes.byref(result))
    try:
        return ctypes.string_at(result).decode("utf-8", "replace")
    finally:
        lib.anyfp8_string_free(result)


def size_of(name: str, *arguments: Any) -> int:
    result = c_size_t()
    call(name, *arguments, ctypes.byref(result))
    return result.value


class Handle:
    """An object of the library; freed with this one. keeps: what must outlive it, such as a callback."""

    __slots__ = ("value", "_free", "_keeps")

    def __init__(self, kind: str, make: str, *arguments: Any, keeps: Any = None):
        self.value = None
        self._keeps = keeps
        self._free: Callable[[int], None] = getattr(lib, f"anyfp8_{kind}_free")
        result = c_void_p()
        call(make, *arguments, ctypes.byref(result))
        self.value = result.value

    def __del__(self):
        if self.value is not None:
            self._free(self.value)
