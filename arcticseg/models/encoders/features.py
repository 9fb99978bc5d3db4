"""Networks of timm that give a pyramid of features: ResNet, ConvNeXt, Swin and others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from arcticseg.errors import ConfigError
from arcticseg.models.batch_norm import steady
from arcticseg.models.blocks import coarse, compiled_on_gpu
from arcticseg.models.torchvision_compat import ensure_torchvision, hidden

ensure_torchvision()

with hidden("wandb"):
    import timm
from timm.layers import DropPath  # noqa: E402
from timm.models import get_pretrained_cfg  # noqa: E402

# What networks for tiles of one size take, the most that they take: positions and windows that fit any size.
_SIZED: tuple[dict[str, Any], ...] = ({"strict_img_size": False}, {})


class Features(nn.Module):
    """A network of timm, of which the maps of stride 4 and coarser are used.

    What timm itself drops in training, it would draw from a generator by the place in the batch: here nothing is.
    """

    def __init__(self, network: nn.Module) -> None:
        """network: as timm makes it with `features_only`.

        Raises:
            ValueError: its maps are no pyramid.
        """
        super().__init__()
        info: Any = network.feature_info
        dims, strides = info.channels(), info.reduction()
        self.used = coarse(strides)
        self.network = network
        self.dims = tuple(dims[number] for number in self.used)
        self.strides = tuple(strides[number] for number in self.used)
        self.stride = max(strides)
        if any(self.stride % stride for stride in self.strides):
            raise ValueError(f"its maps stand at strides {', '.join(map(str, strides))}")
        # Swin and a few others keep channels last.
        self.channels_last = str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC")
        steady(network)
        for part in network.modules():
            if isinstance(part, DropPath):
                part.drop_prob = 0.0
            elif isinstance(part, nn.modules.dropout._DropoutNd):
                part.p = 0.0

        self._layers = _layers(network)
        self.n_layers = max(self._layers.values(), default=0) + 1

    def layer_of(self, name: str) -> int:
        """The layer of a parameter: 0 for what comes before the first stage, then each stage.

        Raises:
            ConfigError: the network does not say what its stages are.
        """
        if not self._layers:
            raise ConfigError(
                "key 'model.encoder.name' is a network that does not say what its stages are; set optim.layer_decay to "
                "1 and model.frozen to none or encoder, or another encoder"
            )
        return self._layers[name.removeprefix("network.")]

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: [B, C, H, W], H and W multiples of `stride` -> maps [B, dims[i], H / strides[i], W / strides[i]].

        Raises:
            ConfigError: the network's maps are of other sizes.
        """
        if compiled_on_gpu(x) and not self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        given = self.network(x)
        maps = [given[number] for number in self.used]
        if self.channels_last:
            maps = [y.permute(0, 3, 1, 2) for y in maps]
        for y, stride in zip(maps, self.strides, strict=True):
            if y.shape[-2:] != (x.shape[-2] // stride, x.shape[-1] // stride):
                size = f"{y.shape[-2]} x {y.shape[-1]} pixels at stride {stride} of {x.shape[-2]} x {x.shape[-1]}"
                raise ConfigError(f"key 'model.encoder.name' is a network whose maps do not fit ({size}); set another")
        return maps


def _layers(network: nn.Module) -> dict[str, int]:
    """Name of each parameter -> 0, or the number of the stage at whose end it counts, from 1."""
    names = [name for name, _ in network.named_parameters()]
    # A stage may be one module, `stages.0`, or have become `stages_0` of the whole.
    flat = [name.removeprefix("model.").replace(".", "_") for name in names]
    told = [f"{stage['module']}_".replace(".", "_") for stage in network.feature_info.info]  # type: ignore[union-attr]
    places = [[place for place, name in enumerate(flat) if name.startswith(stage)] for stage in told]
    stages = [of_stage for of_stage in places if of_stage]
    if not stages:
        return {}
    begin, ends = stages[0][0], [of_stage[-1] for of_stage in stages[:-1]]
    return {name: 0 if place < begin else 1 + sum(end < place for end in ends) for place, name in enumerate(names)}


def build_features(in_chans: int, tile: int, name: str) -> Features:
    """Build the network that timm calls `name` (or `timm/name`) with random weights; nothing is downloaded.

    Args:
        tile: edge of the training tiles in pixels, for networks that are made for one size.

    Raises:
        ConfigError: timm has none of that name, or it gives no features, or not of such tiles.
    """
    key, known = f"key 'model.encoder.name' is {name!r}", "set one such as resnet50d, convnext_base or swin_tiny_..."
    name = name.removeprefix("timm/")
    if not timm.is_model(name):
        raise ConfigError(f"{key}; timm has no such network; {known}")
    settings = get_pretrained_cfg(name)
    sized = settings is not None and settings.fixed_input_size
    error: Exception | None = None
    for more in _SIZED if sized else ({},):
        size = {"img_size": tile, **more} if sized else {}
        try:
            return Features(timm.create_model(name, features_only=True, in_chans=in_chans, **size))
        except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as caught:
            error = caught
    raise ConfigError(
        f"{key}; timm cannot give its features for {in_chans} planes and tiles of {tile} pixels ({error}); {known}"
    ) from error
