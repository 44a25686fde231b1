"""Hugging Face transformers: FP8 checkpoints are loaded as they are, on CPUs and on GPUs without FP8 units.

    import anyfp8.transformers
    anyfp8.transformers.enable()
    model = AutoModelForCausalLM.from_pretrained("org/model-FP8", device_map="cuda")

Weights go from the mapped file to where they are computed with, one byte a parameter; transformers reads the rest.
disable() gives the names back to the quantizers of transformers.
"""

from __future__ import annotations

import copy
import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.quantizers import auto
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from ._device import devices
from ._weight import Checkpoint, open_checkpoint
from .torch import Fp8Linear

__all__ = ["METHODS", "disable", "enable"]

_log = logging.getLogger("anyfp8.transformers")

#: The quant_methods of config.json that enable() takes.
METHODS = ("fp8", "compressed-tensors", "fbgemm_fp8", "mxfp8", "modelopt")

_replaced: dict[str, tuple[Any, Any]] = {}  # what the names stood for before enable()
_options: dict[str, Any] = {}


def enable(*, policy: str | None = None, force: str | None = None) -> None:
    """From now on from_pretrained() loads FP8 checkpoints without dequantising them. policy, force: as of
    anyfp8.init_fp8_linear_kernel(). Calling it again changes these."""
    _options.update(policy=policy, force=force)
    if _replaced:
        return
    for method in METHODS:
        before = (
            auto.AUTO_QUANTIZATION_CONFIG_MAPPING.get(method),
            auto.AUTO_QUANTIZER_MAPPING.get(method),
        )
        _replaced[method] = before
        auto.AUTO_QUANTIZATION_CONFIG_MAPPING[method] = _config_class(before[0])
        auto.AUTO_QUANTIZER_MAPPING[method] = _quantizer_class(before[1])


def disable() -> None:
    """Undoes enable(). Models that were loaded stay as they are."""
    for method, (config, quantizer) in _replaced.items():
        for mapping, before in (
            (auto.AUTO_QUANTIZATION_CONFIG_MAPPING, config),
            (auto.AUTO_QUANTIZER_MAPPING, quantizer),
        ):
            if before is None:
                del mapping[method]
            else:
                mapping[method] = before
    _replaced.clear()


class AnyFp8Config(QuantizationConfigMixin):
    """quantization_config of config.json as it stands; the library reads it again from the file."""

    def __init__(self, **members: Any):
        self.__dict__.update(members)

    def to_dict(self) -> dict[str, Any]:
        return copy.deepcopy(self.__dict__)

    def get_loading_attributes(self) -> dict[str, Any]:
        return {}


def _is_fp8(config: dict[str, Any]) -> bool:
    """compressed-tensors and modelopt name more than FP8; groups may be presets by name ("FP8_DYNAMIC")."""
    method = config.get("quant_method")
    if method == "modelopt":
        return "FP8" in str(config.get("quant_algo", "")).upper()
    if method != "compressed-tensors":
        return True
    groups = config.get("config_groups") or {}

    def fp8(name: str, group: Any) -> bool:
        if not isinstance(group, dict):
            return "FP8" in name.upper()
        weights = group.get("weights") or {}
        return weights.get("type") == "float" and weights.get("num_bits") == 8

    return bool(groups) and all(fp8(name, group) for name, group in groups.items())


def _config_class(before: Any) -> type:
    """What AutoQuantizationConfig calls from_dict() of: ours for FP8, the one before for the rest."""

    class Config(AnyFp8Config):
        @classmethod
        def from_dict(cls, config_dict: dict, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
            if before is not None and not _is_fp8(config_dict):
                return before.from_dict(config_dict, return_unused_kwargs=return_unused_kwargs, **kwargs)
            config = AnyFp8Config(**config_dict)
            return (config, kwargs) if return_unused_kwargs else config

    return Config


def _quantizer_class(before: Any) -> type:
    """What AutoHfQuantizer calls: ours for an AnyFp8Config, the one before for what a user made himself."""

    class Quantizer:
        def __new__(cls, quantization_config: Any, **kwargs: Any) -> Any:
            if isinstance(quantization_config, AnyFp8Config) or before is None:
                return AnyFp8HfQuantizer(quantization_config, **kwargs)
            return before(quantization_config, **kwargs)

    return Quantizer


class AnyFp8HfQuantizer(HfQuantizer):
    """Takes the FP8 layers out of transformers' hands: replaces them before the weights are loaded, hides their
    tensors from the loader, and fills them from the file afterwards."""

    requires_calibration = True

    def __init__(self, quantization_config: Any, **kwargs: Any):
        super().__init__(quantization_config, **kwargs)
        self._options = dict(_options)
        self._checkpoint: Checkpoint | None = None
        self._modules: dict[str, str] = {}  # module of the model -> module of the file
        self._sized: list[Fp8Linear] = []
        self._device_map: Any = None

    def validate_environment(self, *args: Any, device_map: Any = None, **kwargs: Any) -> None:
        # Called a second time when accelerate has made its map.
        for module in self._sized:
            del module._parameters["_planned"]
        self._sized = []
        self._device_map = device_map
        gpus = [device for device in devices() if device.kind == "cuda"]
        if _uses_cuda(device_map) and not gpus:
            raise RuntimeError(
                "anyfp8 sees no CUDA device: this build has no CUDA, or no driver is there; build with ANYFP8_CUDA or "
                'load with device_map="cpu"'
            )

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Cards below 8.0 have no bf16 tensor cores."""
        old = [gpu.name for gpu in devices() if (gpu.compute_capability or (99, 0)) < (8, 0)]
        if old and dtype is torch.bfloat16 and _uses_cuda(self._device_map):
            _log.warning("%s has no bfloat16 units: activations are float16", old[0])
            return torch.float16
        return dtype

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: Any = None, device_map: Any = None, dtype: Any = None, **kwargs: Any
    ) -> Any:
        if not checkpoint_files or not str(checkpoint_files[0]).endswith(".safetensors"):
            raise ValueError("anyfp8 reads .safetensors files; this model has none")
        checkpoint = self._checkpoint = open_checkpoint(Path(checkpoint_files[0]).parent)
        if checkpoint.inspection["errors"]:
            error = checkpoint.inspection["errors"][0]
            raise ValueError(f"{checkpoint.path}: {error['tensor']}: {error['text']}")
        layers = {entry["module"]: entry for entry in checkpoint.layers if entry["weight"]["scale_dtype"] is not None}
        self._modules = _match(model, layers)
        sizes = isinstance(device_map, str)
        for name, module in self._modules.items():
            entry = layers[module]
            old = model.get_submodule(name)
            if (old.out_features, old.in_features) != (entry["n"], entry["k"]):
                raise ValueError(
                    f"{name} is [{old.out_features}, {old.in_features}] in the model and [{entry['n']}, {entry['k']}] in "
                    f"{checkpoint.path}"
                )
            scale = f"{module}.weight_scale_inv" in checkpoint.tensors
            new = Fp8Linear(
                old.in_features,
                old.out_features,
                group=tuple(entry["weight"]["group"]),
                scale_name="weight_scale_inv" if scale else "weight_scale",
                dtype=dtype or model.dtype,
                **self._options,
            )
            if sizes:  # so that accelerate knows what the layer weighs
                size = torch.empty(entry["n"], entry["k"], dtype=torch.float8_e4m3fn, device="meta")
                new.register_parameter("_planned", nn.Parameter(size, requires_grad=False))
                self._sized.append(new)
            model.set_submodule(name, new)
        names = "|".join(re.escape(module) for module in layers)
        hidden = (
            rf"^({names})\.(weight|bias|weight_scale|weight_scale_inv|input_scale|activation_scale|input_scale_ub)$"
        )
        known = set(model._keys_to_ignore_on_load_unexpected or ())
        model._keys_to_ignore_on_load_unexpected = known | {
            hidden,
            r"\.(k_scale|v_scale|kv_scale|q_scale|output_scale)$",
        }
        return model

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        assert self._checkpoint is not None
        for name, module in self._modules.items():
            layer = model.get_submodule(name)
            layer.device = _device_beside(model, name)
            try:
                layer.place(self._checkpoint.weight(module))
            except (ValueError, RuntimeError) as error:
                raise type(error)(f"{name}: {error}") from None
            layer.train(model.training)
        self._checkpoint = None
        return model

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False

    @property
    def is_compileable(self) -> bool:
        return True


def _uses_cuda(device_map: Any) -> bool:
    places = device_map.values() if isinstance(device_map, dict) else [device_map]
    return any(isinstance(place, int) or str(place).startswith("cuda") for place in places)


def _match(model: Any, layers: dict[str, Any]) -> dict[str, str]:
    """{module of the model: module of the file} for every FP8 layer of the file.

    A base model and one with a head differ in a prefix. What is in the file and no nn.Linear of the model is an
    error, unless transformers itself ignores it: loaded without its scale it would be wrong.
    """
    prefix = model.base_model_prefix + "."
    linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    ignored = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected or ()]
    found = {}
    for module in layers:
        names = (module, prefix + module, module.removeprefix(prefix))
        name = next((name for name in names if name in linears), None)
        if name is not None:
            found[name] = module
        elif not any(pattern.search(f"{module}.weight") for pattern in ignored):
            raise NotImplementedError(
                f"{module} is FP8 in the file and no linear layer of {type(model).__name__} has that name; anyfp8 runs "
                "dense models (no mixture of experts), whose layers are named as in the file"
            )
    return found


def _device_beside(model: Any, name: str) -> torch.device:
    """Where the parameters nearest to a module lie, which transformers has placed."""
    while name:
        name = name.rpartition(".")[0]
        for parameter in model.get_submodule(name).parameters():
            if parameter.device.type == "meta":
                raise NotImplementedError(f"{name} is offloaded; anyfp8 needs layers in host or device memory")
            return parameter.device
    return torch.device("cpu")
