"""Mix transformers, the encoders of SegFormer, from segmentation-models-pytorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from arcticseg.models.torchvision_compat import ensure_torchvision, hidden

ensure_torchvision()

# It imports timm, which imports wandb for nothing.
with hidden("wandb"):
    from segmentation_models_pytorch.encoders.mix_transformer import (
        MixVisionTransformer,
        mix_transformer_encoders,
    )


class _RatesOnHost(TorchFunctionMode):
    """The library reads numbers back from `linspace`, which the meta device, where configs are checked, has not."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        return func(*args, **given | ({"device": "cpu"} if func is torch.linspace else {}))


class MiTEncoder(MixVisionTransformer):
    """A mix transformer: maps at strides 4, 8, 16 and 32 of images of any size.

    Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers", NeurIPS 2021.
    """

    strides = (4, 8, 16, 32)
    stride = 32

    def __init__(self, in_chans: int, tile: int, name: str) -> None:
        """Take images of `in_chans` planes.

        tile: no weight depends on it. name: `mit_b0` to `mit_b5`.
        """
        sizes: dict[str, Any] = dict(mix_transformer_encoders[name]["params"])
        # Those of the image and of the map at stride 2, which the library's decoders count, too.
        dims = sizes.pop("out_channels")[2:]
        # The library would draw dropped paths from a generator.
        with _RatesOnHost():
            super().__init__(**sizes | {"in_chans": in_chans, "img_size": tile, "drop_path_rate": 0.0})
        self.dims = tuple(dims)

    @property
    def n_layers(self) -> int:
        """The layer of what comes after all stages."""
        return len(self.strides) + 1

    def layer_of(self, name: str) -> int:
        """The layer of a parameter: 0 for the first patch embedding, then each stage."""
        part = name.partition(".")[0]
        return 0 if part == "patch_embed1" else int(part[-1])

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: [B, C, H, W], H and W multiples of 32 -> four maps [B, dims[i], H / strides[i], W / strides[i]]."""
        maps: list[Tensor] = self.forward_features(x)
        return maps
