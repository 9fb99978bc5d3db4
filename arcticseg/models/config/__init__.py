"""Configs of encoders, decoders and heads; no torch here.

The tables say what can be named. A network from outside adds its class to a table; `arcticseg.choice.import_modules`
imports its module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

from arcticseg.choice import Choice
from arcticseg.errors import need
from arcticseg.ice.sigrid import CHARTS
from arcticseg.models.config.auxiliary import AuxiliaryConfig
from arcticseg.models.config.heads import ClassificationConfig, HeadConfig, RegressionConfig
from arcticseg.models.config.heads import OrdinalConfig as OrdinalConfig
from arcticseg.models.config.initial import check_initial, check_untagged, planes_of
from arcticseg.models.config.tuning import LARGEST, LoRAConfig, check_frozen


@dataclass(frozen=True)
class EncoderConfig(Choice):
    """An image [B, C, H, W] to maps of features.

    The implementation takes (input planes, edge of a tile) and the config's keys. It gives a module whose forward
    takes an image and returns a list of maps, with `dims` and `strides` (channels of each map, and its pixels in those
    of the image) and `stride` (pixels, of which H and W are multiples). Where it has `takes_seeds` set to True, its
    forward takes `seeds`, too: by them it drops paths.
    """

    # Whether its maps stand at strides 1, 2, 4 and so on.
    halving: ClassVar[bool] = False
    # The decoder of a run that names none.
    decoder: ClassVar[str] = "light"
    # Whether a masked autoencoder can be made of it.
    pretrains: ClassVar[bool] = False


@dataclass(frozen=True)
class ViTConfig(EncoderConfig):
    """A plain vision transformer of timm. None: as the named model has it."""

    name: str = "vit_base_patch16_224"
    patch_size: int | None = None
    embed_dim: int | None = None
    depth: int | None = None
    num_heads: int | None = None
    # Stochastic depth: how often the last block is dropped; drawn by (seed, step, place).
    drop_path: float = 0.0
    # Less memory for a third more arithmetic: backward computes the inside of each block again, also of a masked
    # autoencoder's decoder.
    checkpoint_blocks: bool = False

    implementation: ClassVar[str] = "arcticseg.models.encoders.vit:build_vit"
    pretrains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _refuse_hybrid(self.name)
        for key in ("patch_size", "embed_dim", "depth", "num_heads"):
            value = getattr(self, key)
            need(value is None or value > 0, key, value, "set 1 or more, or null for what the name stands for")
            need(value is None or value <= LARGEST, key, value, f"set {LARGEST} or less")
        need(0 <= self.drop_path < 1, "drop_path", self.drop_path, "set a share in [0, 1)")
        if self.embed_dim is not None and self.num_heads is not None:
            remedy = f"set a divisor of embed_dim ({self.embed_dim})"
            need(self.embed_dim % self.num_heads == 0, "num_heads", self.num_heads, remedy)

    def arguments(self) -> dict[str, object]:
        """The keys, the name with them: it says which network of timm."""
        return {"name": self.name} | super().arguments()


def _refuse_hybrid(name: str) -> None:
    hybrid = any(fnmatchcase(name.removeprefix("timm/"), pattern) for pattern in _HYBRIDS)
    need(not hybrid, "name", name, "it is a hybrid of CNN and ViT, which are not taken: set a plain network of either")


@dataclass(frozen=True)
class FeaturesConfig(EncoderConfig):
    """A network of timm that gives a pyramid of features."""

    name: str = "resnet50d"

    implementation: ClassVar[str] = "arcticseg.models.encoders.features:build_features"

    def __post_init__(self) -> None:
        _refuse_hybrid(self.name)

    def arguments(self) -> dict[str, object]:
        """The name: it says which network of timm."""
        return {"name": self.name}


@dataclass(frozen=True)
class MiTConfig(EncoderConfig):
    """A mix transformer, SegFormer's encoder, of segmentation-models-pytorch."""

    name: str = "mit_b2"

    implementation: ClassVar[str] = "arcticseg.models.encoders.mit:MiTEncoder"
    decoder: ClassVar[str] = "segformer"

    def arguments(self) -> dict[str, object]:
        """The name: it says which of the six."""
        return {"name": self.name}


@dataclass(frozen=True)
class UNetConfig(EncoderConfig):
    """The way down of the AutoICE UNet."""

    name: str = "unet"
    # Channels of the levels.
    filters: tuple[int, ...] = (16, 32, 64, 64)
    # `batch`, as in the challenge, makes a sample's output depend on its micro batch.
    norm: Literal["group", "batch"] = "group"

    implementation: ClassVar[str] = "arcticseg.models.encoders.unet:UNetEncoder"
    halving: ClassVar[bool] = True
    decoder: ClassVar[str] = "unet"

    def __post_init__(self) -> None:
        good = 0 < len(self.filters) <= 16 and min(self.filters) > 0 and max(self.filters) <= LARGEST
        need(good, "filters", list(self.filters), "set positive channel counts, such as [16, 32, 64, 64]")


# Families of timm that have plain vision transformers.
_VITS = ("vit_*", "deit*", "flexivit*", "aimv2_*", "beit3_*", "eva_large_*", "terramind_v1_*")
# Families of timm that give features at strides 4 to 32, and any other network of timm by its name.
_FEATURES = (
    *("resnet*", "resnext*", "wide_resnet*", "seresnet*", "ecaresnet*", "res2net*", "regnet*", "densenet*"),
    *("hrnet_*", "efficientnet*", "mobilenetv*", "convnext*", "swin_*", "swinv2_*", "pvt_v2_*", "focalnet_*", "timm/*"),
)
_HYBRIDS = (
    *("vit_*_r_*", "vit_*_r[0-9]*", "vit_*_resnet*", "botnet*", "coat_*", "coatnet*", "coatnext*", "convit*"),
    *("efficientformer*", "levit*", "maxvit*", "maxxvit*", "mobilevit*", "nextvit*", "tiny_vit*", "visformer*"),
)

EncoderConfig.table = {
    **dict.fromkeys(_VITS, ViTConfig),
    "unet": UNetConfig,
    **dict.fromkeys(_FEATURES, FeaturesConfig),
    "mit_b[0-5]": MiTConfig,
}


@dataclass(frozen=True)
class DecoderConfig(Choice):
    """Maps of features to one map.

    The implementation takes (channels of the maps, their strides) and the config's keys. It gives a module whose
    forward takes the list of maps, with `out_channels`.
    """

    # One for all charts, or one for each; null: as is usual for the kind.
    shared: bool | None = None

    # Whether it takes maps at strides 1, 2, 4 and so on only.
    halving: ClassVar[bool] = False
    # What is usual.
    shares: ClassVar[bool] = True

    @property
    def for_all(self) -> bool:
        """Whether one decoder serves all charts."""
        return self.shares if self.shared is None else self.shared

    def arguments(self) -> dict[str, Any]:
        """What one decoder takes: it does not know how many there are."""
        return {key: value for key, value in super().arguments().items() if key != "shared"}


@dataclass(frozen=True)
class LightConfig(DecoderConfig):
    """Projected, fused and upsampled maps."""

    name: str = "light"
    # Width of the projections.
    channels: int = 256

    implementation: ClassVar[str] = "arcticseg.models.decoders.light:LightDecoder"

    def __post_init__(self) -> None:
        check_width("channels", self.channels)


@dataclass(frozen=True)
class Light3Config(LightConfig):
    """`light`, one for each chart."""

    name: str = "light3"

    shares: ClassVar[bool] = False


@dataclass(frozen=True)
class FCNConfig(DecoderConfig):
    """Convolutions on the deepest map."""

    name: str = "fcn"
    # Width.
    channels: int = 512

    implementation: ClassVar[str] = "arcticseg.models.decoders.fcn:FCNDecoder"

    def __post_init__(self) -> None:
        check_width("channels", self.channels)


@dataclass(frozen=True)
class DeepLabConfig(DecoderConfig):
    """DeepLabV3+: dilated convolutions on the deepest map, joined with a fine one."""

    name: str = "deeplabv3plus"
    # Width.
    channels: int = 256
    # Pixels of the deepest map between the taps of each dilated convolution.
    rates: tuple[int, ...] = (12, 24, 36)

    implementation: ClassVar[str] = "arcticseg.models.decoders.deeplab:DeepLabDecoder"

    def __post_init__(self) -> None:
        check_width("channels", self.channels)
        good = 0 < len(self.rates) <= 16 and min(self.rates) > 0 and max(self.rates) <= LARGEST
        need(good, "rates", list(self.rates), "set positive whole numbers, such as [12, 24, 36]")


@dataclass(frozen=True)
class SegFormerConfig(DecoderConfig):
    """Maps projected, resized and fused, pixel by pixel."""

    name: str = "segformer"
    # Width.
    channels: int = 256

    implementation: ClassVar[str] = "arcticseg.models.decoders.segformer:SegFormerDecoder"

    def __post_init__(self) -> None:
        check_width("channels", self.channels)


@dataclass(frozen=True)
class UPerNetConfig(DecoderConfig):
    """Pyramid pooling and feature pyramid, one for each chart."""

    name: str = "upernet"
    # Width of the pyramid.
    channels: int = 768

    implementation: ClassVar[str] = "arcticseg.models.decoders.upernet:UPerDecoder"
    shares: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_width("channels", self.channels)


@dataclass(frozen=True)
class UNetDecoderConfig(DecoderConfig):
    """The way up of the UNet."""

    name: str = "unet"
    # As of the encoder's.
    norm: Literal["group", "batch"] = "group"

    implementation: ClassVar[str] = "arcticseg.models.decoders.unet:UNetDecoder"
    halving: ClassVar[bool] = True


_DECODERS = (
    *(LightConfig, Light3Config, UPerNetConfig, FCNConfig, DeepLabConfig, SegFormerConfig),
    UNetDecoderConfig,
)

DecoderConfig.table = {kind.name: kind for kind in _DECODERS}


def check_width(key: str, width: int) -> None:
    """Refuse a width that norms in groups of four channels cannot divide.

    Raises:
        BadValueError: naming the key.
    """
    need(width > 0 and width % 4 == 0, key, width, "set a positive multiple of 4")
    need(width <= LARGEST, key, width, f"set {LARGEST} or less")


_DEFAULT_HEADS: dict[str, HeadConfig] = {"SIC": RegressionConfig()}


@dataclass(frozen=True)
class ModelConfig:
    """The network: an encoder and, for charts, a decoder and a head for each of them."""

    encoder: EncoderConfig = field(default_factory=ViTConfig)
    # Null: the encoder's own.
    decoder: DecoderConfig | None = None
    # Charts that the network draws.
    charts: tuple[str, ...] = CHARTS
    # Chart -> head, where it is not regression for SIC and classification for SOD and FLOE.
    heads: dict[str, HeadConfig] = field(default_factory=dict)
    # Deep supervision, in training only; null: none.
    auxiliary: AuxiliaryConfig | None = None
    # Run folder or weights file, of this or another project, whose encoder to start from; null: from scratch.
    init_from: str | None = None
    # Groups, channels or other names of the input planes of these weights, in order, where the file does not say them.
    init_channels: tuple[str, ...] = ()
    # Null: input planes must be those of the weights. Else they are matched by name, and those that the weights lack
    # start from the mean over their channels, or from zero.
    init_adapt: Literal["mean", "zero"] | None = None
    # What of the encoder stays as it is: none, encoder (all of it), or a number of its first blocks or stages, with
    # what comes before them.
    frozen: str | int = "none"
    # Adapters that learn in place of the encoder; null: none.
    lora: LoRAConfig | None = None

    @property
    def init_planes(self) -> tuple[str, ...]:
        """`init_channels` with each group as its channels."""
        return planes_of(self.init_channels)

    @property
    def decoding(self) -> DecoderConfig:
        """`decoder`, or the encoder's own."""
        if self.decoder is not None:
            return self.decoder
        return DecoderConfig.named(self.encoder.decoder)

    @classmethod
    def completed(cls, keys: Mapping[str, Any]) -> dict[str, Any]:
        """Keys of the config, with the name of a decoder of which they have other keys only: the encoder's own."""
        decoder, encoder = keys.get("decoder"), keys.get("encoder", {})
        if not isinstance(decoder, Mapping) or "name" in decoder:
            return dict(keys)
        name = encoder.get("name", ViTConfig.name) if isinstance(encoder, Mapping) else encoder
        kind = EncoderConfig.choose(name)
        return {**keys, "decoder": {"name": None if kind is None else kind.decoder, **decoder}}

    def head(self, chart: str) -> HeadConfig:
        """The head of a chart."""
        return self.heads.get(chart, _DEFAULT_HEADS.get(chart, ClassificationConfig()))

    def __post_init__(self) -> None:
        need(bool(self.charts), "charts", list(self.charts), f"name charts of {', '.join(CHARTS)}")
        for chart in (*self.charts, *self.heads):
            key = "charts" if chart in self.charts else f"heads.{chart}"
            need(chart in CHARTS, key, chart, f"name charts of {', '.join(CHARTS)}")
        in_order = tuple(chart for chart in CHARTS if chart in self.charts)
        need(self.charts == in_order, "charts", list(self.charts), f"name each once, in the order {', '.join(CHARTS)}")
        for chart, head in self.heads.items():
            need(chart in head.charts, f"heads.{chart}", head.name, f"it predicts {', '.join(head.charts)} only")
        check_frozen("frozen", self.frozen)
        check_initial(self.init_from, self.init_channels, self.init_adapt)
        check_untagged("encoder.name", self.encoder.name)
        remedy = f"set {self.encoder.decoder}, or null: it cannot take the maps of encoder {self.encoder.name}"
        need(self.encoder.halving or not self.decoding.halving, "decoder.name", self.decoding.name, remedy)
