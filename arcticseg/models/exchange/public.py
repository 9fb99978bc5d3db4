"""An encoder in the names and shapes of timm, so that it can be used without this project."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from arcticseg.errors import ConfigError
from arcticseg.models.config import EncoderConfig
from arcticseg.models.torchvision_compat import ensure_torchvision, hidden

_PREFIX = "encoder."


@dataclass(frozen=True)
class Public:
    """An encoder's tensors for a network of timm.

    Attributes:
        name, arguments: `timm.create_model(name, **arguments)` makes the network; `load_state_dict` takes the tensors.
        tensors: by timm's names.
    """

    name: str
    arguments: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def call(self) -> str:
        """The call as Python writes it."""
        keys = ", ".join(f"{key}={value!r}" for key, value in self.arguments.items())
        return f"timm.create_model({self.name!r}, {keys})"


def to_timm(encoder: EncoderConfig, in_chans: int, tile: int, weights: Mapping[str, Tensor]) -> Public:
    """The encoder of a network's weights for timm.

    Args:
        tile: edge of the training tiles in pixels.
        weights: of the whole network; those that are not the encoder's are left out.

    Raises:
        ConfigError: timm has no network that takes exactly these tensors.
    """
    ensure_torchvision()
    with hidden("wandb"):
        import timm

    tensors = {name.removeprefix(_PREFIX): value for name, value in weights.items() if name.startswith(_PREFIX)}
    # A network of timm within a module of this project.
    tensors = {name.removeprefix("network."): value for name, value in tensors.items()}
    name = encoder.name.removeprefix("timm/")
    # Not one that this project adds to timm.
    is_known = timm.is_model(name) and timm.model_entrypoint(name).__module__.startswith("timm.")
    for arguments in _ways(encoder, in_chans, tile) if is_known else ():
        try:
            with torch.device("meta"):
                shapes = {key: value.shape for key, value in timm.create_model(name, **arguments).state_dict().items()}
        except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            continue
        if shapes == {key: value.shape for key, value in tensors.items()}:
            return Public(name, arguments, tensors)
    raise ConfigError(
        f"--layout timm: timm has no network that takes the tensors of encoder {encoder.name} as they are; leave "
        "--layout out for this project's own"
    )


def _ways(encoder: EncoderConfig, in_chans: int, tile: int) -> Iterator[dict[str, Any]]:
    """Keyword arguments with which timm may make an encoder."""
    keys = ("patch_size", "embed_dim", "depth", "num_heads")
    sizes = {key: getattr(encoder, key) for key in keys if getattr(encoder, key, None) is not None}
    yield {
        "in_chans": in_chans,
        "img_size": tile,
        "dynamic_img_size": True,
        "num_classes": 0,
        "global_pool": "",
        **sizes,
    }
    yield {"features_only": True, "in_chans": in_chans}
    yield {"features_only": True, "in_chans": in_chans, "img_size": tile, "strict_img_size": False}
    yield {"features_only": True, "in_chans": in_chans, "img_size": tile}
