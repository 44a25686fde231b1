"""anyfp8 in torch: torch.ops.anyfp8.linear, the module Fp8Linear, and convert(model).

    model = anyfp8.torch.convert(model)                      # FP8 linears, as loaded
    model = anyfp8.torch.convert(model, scheme="channel")    # 16-bit ones too: quantised here

Weights lie once, in the library's own memory and order (torch.cuda.memory_allocated() does not count them:
resident_bytes() does). What a layer computes can be compiled, exported and captured in CUDA graphs. On the CPU layers
use as many threads as torch does when this is imported, unless ANYFP8_THREADS says otherwise.
"""

from __future__ import annotations

import itertools
import os
from typing import Any
from collections.abc import Callable, Iterable
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import nn

from ._device import set_num_threads
from ._linear import Linear
from ._torch_call import TYPES, apply_torch, current_stream
from ._weight import Group, Weight, as_group, quantize

__all__ = ["Fp8Linear", "convert", "resident_bytes"]

_DTYPES = {
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
}
_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_SCALES = ("weight_scale_inv", "weight_scale")  # both multiply
_INPUT_SCALES = ("input_scale", "activation_scale")
# Rows of W dequantised at a time where gradients go back through a layer.
_BACKWARD_ROWS = 1024

# Teams of one size share OpenMP's threads with torch; another size would start them anew in every layer.
if "ANYFP8_THREADS" not in os.environ:
    set_num_threads(min(1024, torch.get_num_threads()))

# A layer is a number to the operator: a constant of a compiled graph.
_numbers = itertools.count(1)
_layers: WeakValueDictionary[int, Linear] = WeakValueDictionary()


def _layer(number: int) -> Linear:
    layer = _layers.get(number)
    if layer is None:
        raise RuntimeError(
            f"anyfp8 layer {number} no longer exists: its module was freed or placed anew after this graph was made"
        )
    return layer


def _linear(x: torch.Tensor, layer: int, out_features: int) -> torch.Tensor:
    return apply_torch(_layer(layer), x)


def _linear_fake(x: torch.Tensor, layer: int, out_features: int) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], out_features))


def _input_grad(grad: torch.Tensor, layer: int, in_features: int) -> torch.Tensor:
    """grad[..., n] · W, a slab of dequantised rows at a time by way of host memory: right, and slow."""
    placed = _layer(layer)
    rows = grad.reshape(-1, placed.n).float()
    result = rows.new_zeros((rows.shape[0], placed.k))
    for begin in range(0, placed.n, _BACKWARD_ROWS):
        end = min(placed.n, begin + _BACKWARD_ROWS)
        result.addmm_(rows[:, begin:end], torch.from_numpy(placed.dequantize(begin, end)).to(grad.device))
    return result.to(grad.dtype).reshape(*grad.shape[:-1], placed.k)


def _input_grad_fake(grad: torch.Tensor, layer: int, in_features: int) -> torch.Tensor:
    return grad.new_empty((*grad.shape[:-1], in_features))


# Defined by a Library and not by torch.library.custom_op(), whose wrapper costs microseconds a call.
_library = torch.library.Library("anyfp8", "DEF")
_library.define("linear(Tensor x, int layer, int out_features) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
_library.define(
    "linear_input_grad(Tensor grad, int layer, int in_features) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,)
)
for _key in ("CPU", "CUDA"):
    _library.impl("linear", _linear, _key)
    _library.impl("linear_input_grad", _input_grad, _key)
torch.library.register_fake("anyfp8::linear", _linear_fake, lib=_library)
torch.library.register_fake("anyfp8::linear_input_grad", _input_grad_fake, lib=_library)


def _setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
    x, ctx.layer, _ = inputs
    ctx.in_features = x.shape[-1]


def _backward(ctx: Any, grad: torch.Tensor) -> tuple:
    return torch.ops.anyfp8.linear_input_grad(grad, ctx.layer, ctx.in_features), None, None


torch.library.register_autograd("anyfp8::linear", _backward, setup_context=_setup_context, lib=_library)


class Fp8Linear(nn.Module):
    """A linear layer with an FP8 weight: y[..., n] = x[..., k] · (weight * scale)ᵀ + bias.

    Made empty, to be filled by load_state_dict(); or by from_weight() and from_linear(). Its state_dict is in
    checkpoint form: "weight" float8 [n, k], "weight_scale" (or `scale_name`) f32, "bias" [n] and "input_scale" where
    there are such, all in host memory. .to(), .cuda() and .half() place the weight anew.

    group: what one scale covers, where the scale's size does not say it ("block", "mxfp8", (rows, columns)).
    dtype: of x and y. policy, force: as of anyfp8.init_fp8_linear_kernel().
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        group: Group | None = None,
        scale_name: str = "weight_scale",
        device: Any = None,
        dtype: torch.dtype | None = None,
        policy: str | None = None,
        force: str | None = None,
    ):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.group = None if group is None else as_group(group)
        self.scale_name = scale_name
        self.device = torch.empty(0, device=device).device  # with its index
        self.dtype = dtype or torch.get_default_dtype()
        self.policy, self.force = policy, force
        self._layer: Linear | None = None
        self._number = 0
        self._bias_dtype: torch.dtype | None = None
        self._activation: dict[str, Any] = {}  # what policy "speed" needs and tensors do not say

    @classmethod
    def from_weight(cls, weight: Weight, **options: Any) -> Fp8Linear:
        """options: scale_name, device, dtype, policy, force."""
        module = cls(weight.k, weight.n, group=weight.group, **options)
        module.place(weight)
        return module

    @classmethod
    def from_linear(cls, linear: nn.Linear, scheme: str = "channel", **options: Any) -> Fp8Linear:
        """Quantises a 16- or 32-bit layer: scheme "tensor", "channel", "block" or "mxfp8"."""
        data = linear.weight.detach().cpu().contiguous()
        weight = quantize(data, scheme)
        if linear.bias is not None:
            weight = Weight.from_arrays(
                weight.data,
                weight.scale,
                linear.bias.detach().cpu().contiguous(),
                dtype=weight.dtype,
                group=weight.group,
                scale_dtype=weight.scale_dtype,
            )
        options = {"device": linear.weight.device, "dtype": linear.weight.dtype, **options}
        return cls.from_weight(weight, **options)

    def place(self, weight: Weight) -> None:
        """Takes a weight [out_features, in_features], which may be dropped afterwards."""
        if (weight.n, weight.k) != (self.out_features, self.in_features):
            raise ValueError(
                f"the weight is {[weight.n, weight.k]} and the module {[self.out_features, self.in_features]}"
            )
        cuda = self.device.type == "cuda"
        self._layer = None  # its memory first
        self._layer = Linear(
            weight,
            self.device,
            dtype=self.dtype,
            policy=self.policy,
            force=self.force,
            stream=current_stream(self.device.index) if cuda else None,
        )
        self.group = weight.group
        self._activation = weight.activation_options()
        self._bias_dtype = None if weight.bias_dtype is None else _DTYPES[weight.bias_dtype]
        self._number = next(_numbers)
        _layers[self._number] = self._layer

    @property
    def layer(self) -> Linear:
        """The placed layer. RuntimeError before there is a weight."""
        if self._layer is None:
            raise RuntimeError(
                f"Fp8Linear({self.in_features}, {self.out_features}) has no weight yet; load_state_dict() or place() it"
            )
        return self._layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The operator is for what traces; a plain call does without the dispatcher.
        if (
            torch.compiler.is_compiling()
            or type(x) is not torch.Tensor
            or (x.requires_grad and torch.is_grad_enabled())
        ):
            return torch.ops.anyfp8.linear(x, self._number, self.out_features)
        return apply_torch(self._layer or self.layer, x)

    @property
    def weight(self) -> torch.Tensor:
        """The codes as the checkpoint has them, float8 [n, k]: a copy in host memory."""
        return self._tensors()["weight"]

    @property
    def bias(self) -> torch.Tensor | None:
        """[n], a copy in host memory; None without."""
        return None if self._bias_dtype is None else self._tensors()["bias"]

    def dequantize(self, begin: int = 0, end: int | None = None) -> torch.Tensor:
        """Rows [begin, end) of weight * scale, f32 [end - begin, k], in host memory."""
        return torch.from_numpy(self.layer.dequantize(begin, end))

    @property
    def resident_bytes(self) -> int:
        """Bytes of weight, scale and bias where they lie; 0 before there is a weight."""
        return 0 if self._layer is None else self._layer.resident_bytes

    def _tensors(self) -> dict[str, torch.Tensor]:
        """The state in checkpoint form."""
        weight = self.layer.weight()
        found = {"weight": torch.from_numpy(np.array(weight.data)).view(_DTYPES[weight.dtype])}
        if weight.scale is not None:
            scale = torch.from_numpy(np.array(weight.scale))
            found[self.scale_name] = scale.reshape(()) if weight.group == (0, 0) else scale
        if weight.input_scale is not None:
            found["input_scale"] = torch.tensor(weight.input_scale)
        if self._bias_dtype is not None:
            bias = torch.from_numpy(np.array(weight.bias))
            found["bias"] = bias.view(torch.bfloat16) if weight.bias_dtype == "bf16" else bias.to(self._bias_dtype)
        return found

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._layer is not None:
            destination.update({prefix + name: tensor for name, tensor in self._tensors().items()})

    def _load_from_state_dict(
        self,
        state_dict: dict,
        prefix: str,
        local_metadata: dict,
        strict: bool,
        missing_keys: list,
        unexpected_keys: list,
        error_msgs: list,
    ) -> None:
        given = {
            name: state_dict[prefix + name]
            for name in ("weight", "bias", *_SCALES, *_INPUT_SCALES)
            if prefix + name in state_dict
        }
        others = {key: value for key, value in state_dict.items() if key.removeprefix(prefix) not in given}
        super()._load_from_state_dict(others, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        if "weight" not in given:
            missing_keys.append(prefix + "weight")
            return
        try:
            self.place(_weight_of(given, self.group, self._activation))
        except (ValueError, NotImplementedError) as error:
            error_msgs.append(f"{prefix}weight: {error}")
            return
        self.scale_name = next((name for name in _SCALES if name in given), self.scale_name)

    def _apply(self, fn: Callable, recurse: bool = True) -> Fp8Linear:
        """.to() and the like: what fn does to a tensor of this module's type and place."""
        probe = fn(torch.empty(0, dtype=self.dtype, device=self.device))
        if (probe.dtype, probe.device) != (self.dtype, self.device):
            weight = None if self._layer is None else self._layer.weight()
            self.dtype, self.device = probe.dtype, probe.device
            if weight is not None:
                bias_dtype = self._bias_dtype
                self.place(weight)
                self._bias_dtype = bias_dtype
        return super()._apply(fn, recurse)

    # copy.deepcopy() and pickle.
    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_layer": None, "_number": 0}
        if self._layer is not None:
            placed = self._tensors()
            dtype = placed["weight"].dtype  # pickle itself has no float8 tensors
            state["_placed"] = ({**placed, "weight": placed["weight"].view(torch.uint8)}, dtype)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        placed = state.pop("_placed", None)
        super().__setstate__(state)
        if placed is not None:
            tensors, dtype = placed
            tensors = {**tensors, "weight": tensors["weight"].view(dtype)}
            self.place(_weight_of(tensors, self.group, self._activation))

    def extra_repr(self) -> str:
        text = f"in_features={self.in_features}, out_features={self.out_features}, bias={self._bias_dtype is not None}"
        if self._layer is None:
            return f"{text}, no weight yet"
        return f"{text}, {self.device}, {self.dtype}, {self._layer.selection.ranges_text()}"


def _weight_of(
    tensors: dict[str, torch.Tensor], group: Group | None, activation: dict[str, Any] | None = None
) -> Weight:
    """A library weight of tensors in checkpoint form, wherever they lie."""
    host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = host["weight"]
    scale = next((host[name] for name in _SCALES if name in host), None)
    input_scale = next((float(host[name]) for name in _INPUT_SCALES if name in host), None)
    mx = scale is not None and scale.dtype in (torch.uint8, getattr(torch, "float8_e8m0fnu", torch.uint8))
    if mx and group is None:
        group = "mxfp8"
    return Weight.from_arrays(
        data,
        scale,
        host.get("bias"),
        dtype="e4m3" if data.dtype is torch.uint8 else None,
        group=group,
        scale_dtype="e8m0" if mx else None,
        input_scale=input_scale,
        **(activation or {}),
    )


def _fp8_tensors(module: nn.Module) -> dict[str, torch.Tensor] | None:
    """weight, scale and the rest of a module that another library made for an FP8 checkpoint."""
    weight = getattr(module, "weight", None)
    if isinstance(module, Fp8Linear) or not isinstance(weight, torch.Tensor) or weight.dtype not in _FLOAT8:
        return None
    if weight.dim() != 2:
        return None
    found = {"weight": weight}
    for name in ("bias", *_SCALES, *_INPUT_SCALES):
        tensor = getattr(module, name, None)
        if isinstance(tensor, torch.Tensor):
            found[name] = tensor
    return found if any(name in found for name in _SCALES) else None


def convert(
    model: nn.Module,
    *,
    scheme: str | None = None,
    skip: Iterable[str] = ("lm_head",),
    dtype: torch.dtype | None = None,
    policy: str | None = None,
    force: str | None = None,
) -> nn.Module:
    """Replaces the linear layers of `model` by Fp8Linear, in place, each where it lies; returns it.

    Layers with an FP8 weight and a scale, as transformers and compressed-tensors load them, always. With `scheme`
    ("tensor", "channel", "block", "mxfp8") also 16- and 32-bit nn.Linear, quantised here, but for modules whose name
    ends in one of `skip`. dtype: of activations; None: of a 16-bit layer its own, else the model's first parameter
    of 16 or 32 bits. Old weights are freed one by one. ValueError names the module that could not be converted.
    """
    if dtype is None:
        wide = (parameter.dtype for parameter in model.parameters() if parameter.dtype in TYPES.values())
        dtype = next(wide, torch.bfloat16)
    options = {"policy": policy, "force": force}
    skipped = tuple(skip)
    for name, module in list(model.named_modules()):
        tensors = _fp8_tensors(module)
        try:
            if tensors is not None:
                block = getattr(module, "block_size", None) or getattr(module, "weight_block_size", None)
                weight = _weight_of(tensors, tuple(block) if block else None)
                scale_name = next(scale for scale in _SCALES if scale in tensors)
                device = tensors["weight"].device
                new = Fp8Linear.from_weight(weight, scale_name=scale_name, device=device, dtype=dtype, **options)
            elif scheme and type(module) is nn.Linear and not name.endswith(skipped):
                new = Fp8Linear.from_linear(module, scheme, **options)
            else:
                continue
        except (ValueError, NotImplementedError) as error:
            raise type(error)(f"{name or type(module).__name__}: {error}") from None
        if not name:
            return new
        new.train(module.training)
        model.set_submodule(name, new)
        del module, tensors
    return model


def resident_bytes(model: nn.Module) -> int:
    """Bytes of the weights, scales and biases that the library holds for the modules of `model`."""
    return sum(module.resident_bytes for module in model.modules() if isinstance(module, Fp8Linear))
