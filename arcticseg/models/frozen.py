"""Which weights of a network learn: an encoder, or its first layers, can stay as they are.

Autograd keeps nothing of what only frozen weights compute, so a frozen encoder costs its forward alone.
"""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from arcticseg.errors import BadValueError
from arcticseg.models.config import ModelConfig
from arcticseg.models.lora import adapt, is_adapted, is_adapter


def let_learn(network: nn.Module, cfg: ModelConfig, seed: int, frozen: str | int) -> None:
    """Give a network's encoder the adapters of a config, unless it has them, and freeze what is not to learn.

    Args:
        seed: of the adapters.
        frozen: what holds in place of the config's `frozen`.

    Raises:
        BadValueError: the encoder has no such part.
    """
    if cfg.lora is not None and not is_adapted(network):
        adapt(network, cfg.lora, seed)
    freeze(network, frozen)


def freeze(network: nn.Module, frozen: str | int) -> None:
    """Keep weights of a network's encoder from learning.

    Where an encoder has adapters, its own weights never learn, and `frozen` says which of the adapters do not, either.

    Args:
        frozen: as of `models.config.ModelConfig`.

    Raises:
        BadValueError: the encoder has fewer layers, or does not say which layer a weight is of.
    """
    encoder = cast(Any, network).encoder
    adapted = is_adapted(encoder)
    layers = _layers(encoder, frozen) if isinstance(frozen, int) else 0
    for name, parameter in encoder.named_parameters():
        is_early = bool(layers) and encoder.layer_of(name) <= layers
        if frozen == "encoder" or is_early or (adapted and not is_adapter(name)):
            parameter.requires_grad_(False)


def _layers(encoder: Any, frozen: int) -> int:
    if not hasattr(encoder, "layer_of"):
        remedy = f"set none or encoder: {type(encoder).__name__} does not say which layer a weight is of"
        raise BadValueError("model.frozen", frozen, remedy)
    if frozen >= encoder.n_layers:
        remedy = f"set at most {encoder.n_layers - 1}, the blocks or stages of the encoder, or encoder for all of it"
        raise BadValueError("model.frozen", frozen, remedy)
    return frozen
