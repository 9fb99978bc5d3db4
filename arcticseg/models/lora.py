"""Low-rank adapters beside the linear maps of an encoder (Hu et al., ICLR 2022), by peft, which only this file loads.

While a network trains, a map W x has another beside it: W x + (alpha / rank) B A x, of which A and B learn. In weights
files they are one map again, W + (alpha / rank) B A, so nothing that reads weights needs peft.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from arcticseg.errors import BadValueError
from arcticseg.models.config import LoRAConfig
from arcticseg.models.torchvision_compat import ensure_torchvision

_A, _B, _BASE = ".lora_A.default.", ".lora_B.default.", ".base_layer."


def adapt(network: nn.Module, cfg: LoRAConfig, seed: int) -> None:
    """Give the linear maps of a network's encoder adapters: A is drawn from the seed, B is 0, so nothing changes yet.

    Raises:
        BadValueError: the encoder has no linear map of a name.
    """
    # It comes with peft, and fails beside some builds of torch.
    ensure_torchvision()
    import peft

    encoder = cast(nn.Module, network.encoder)
    for target in cfg.targets:
        if not any(isinstance(part, nn.Linear) and _is_named(name, target) for name, part in encoder.named_modules()):
            remedy = f"name linear maps of the encoder; {type(encoder).__name__} has none of the name {target}"
            raise BadValueError("model.lora.targets", list(cfg.targets), remedy)
    torch.manual_seed(seed)
    wanted = peft.LoraConfig(
        r=cfg.rank, lora_alpha=cast(Any, cfg.alpha), target_modules=list(cfg.targets), lora_dropout=0.0
    )
    with warnings.catch_warnings():
        # It looks for a configuration of transformers.
        warnings.simplefilter("ignore")
        peft.inject_adapter_in_model(wanted, encoder)


def _is_named(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def is_adapter(name: str) -> bool:
    """Whether a tensor is of an adapter."""
    return _A in name or _B in name


def is_adapted(module: nn.Module) -> bool:
    """Whether a module has adapters."""
    return any(is_adapter(name) for name, _ in module.named_parameters())


def merged(tensors: Mapping[str, Tensor], cfg: LoRAConfig | None) -> dict[str, Any]:
    """Tensors of a network, those of adapters added to the maps that they stand beside, under the plain names.

    Args:
        cfg: of the adapters; None: there are none, and tensors are given back as they are.
    """
    if cfg is None:
        return dict(tensors)
    plain: dict[str, Any] = {}
    for name, value in tensors.items():
        if is_adapter(name):
            continue
        first, second = name.replace(_BASE, _A), name.replace(_BASE, _B)
        if _BASE in name and first in tensors:
            low = tensors[second].double() @ tensors[first].double()
            value = (value.double() + cfg.alpha / cfg.rank * low).to(value.dtype)
        plain[name.replace(_BASE, ".")] = value
    return plain
