from __future__ import annotations

import json
from ctypes import byref, c_int
from functools import cache
from typing import Any, Union

from . import _library
from ._library import Handle


class Device:
    """A CPU or GPU, present or only planned for.

    name: "cpu" (this one) or "cuda:0"; or hardware that need not be here: "cpu:avx2", "sm_86". A torch.device
    will do. ValueError for a name that does not exist, NotImplementedError for a GPU that is not here.
    """

    def __init__(self, name: Any = "cpu"):
        name = str(name)
        name = "cuda:0" if name == "cuda" else name
        self._set(name, Handle("device", "device_open", name.encode()))

    def _set(self, name: str | None, handle: Handle) -> None:
        self._handle = handle
        #: What the library knows: kind, index, name; isa, cores; compute_capability, sm_count, ... (0: not known).
        self.info: dict[str, Any] = json.loads(_library.text_of("device_json", handle.value))
        self.kind: str = self.info["kind"]
        self.index: int = self.info["index"]
        self.name: str = name or (self.kind if self.kind == "cpu" else f"cuda:{self.index}")

    @classmethod
    def _at(cls, index: int) -> Device:
        device = cls.__new__(cls)
        device._set(None, Handle("device", "device_at", index))
        return device

    @property
    def compute_capability(self) -> tuple[int, int] | None:
        """(8, 6) of a GPU; None of a CPU."""
        text = self.info.get("compute_capability")
        return tuple(int(part) for part in text.split(".")) if text else None  # type: ignore[return-value]

    @property
    def present(self) -> bool:
        """Whether layers can be placed there, rather than planned for."""
        return self.name == "cpu" or self.name.startswith("cuda:")

    def __repr__(self) -> str:
        known = [self.info["name"], self.info.get("isa") or f"sm_{''.join(map(str, self.compute_capability or ()))}"]
        return f"<anyfp8.Device {self.name}: {', '.join(part for part in known if part)}>"


DeviceLike = Union[Device, str, Any]  # "cpu", "cuda:0", a torch.device


@cache
def _opened(name: str) -> Device:
    return Device(name)


def as_device(device: DeviceLike) -> Device:
    return device if isinstance(device, Device) else _opened(str(device))


def devices() -> list[Device]:
    """The devices this process can run a layer on: the CPU first, then NVIDIA GPUs in a build with CUDA."""
    count = c_int()
    _library.call("device_count", byref(count))
    return [Device._at(index) for index in range(count.value)]


def kernels() -> list[dict[str, Any]]:
    """The kernels, most preferred first: name, summary, device ("cpu", "cuda"), built (in this build)."""
    return json.loads(_library.text_of("kernels_json"))


def set_num_threads(count: int) -> None:
    """Threads that CPU kernels use, 1 to 1024. Before: ANYFP8_THREADS, else the CPUs of this process."""
    _library.call("set_num_threads", count)


def load_plugin(path: Any) -> None:
    """Loads a kernel plugin, a shared object (anyfp8/kernels/plugin.h); it stays for the life of the process."""
    _library.call("load_plugin", str(path).encode())
