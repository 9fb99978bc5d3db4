"""How other projects name and shape the tensors of their encoders: a table, and the names of timm for all of them.

Which layout a file has is read from its names alone. What no layout of the table describes is refused, not guessed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from arcticseg.errors import ConfigError
from arcticseg.shown import brief

Tensors = Mapping[str, Tensor]
# Pattern of a name -> the name that it stands for, or None: not of the encoder.
_Names = Mapping[str, str | None]


@dataclass(frozen=True)
class Parts:
    """The tensors of a file by names of timm.

    Attributes:
        layout: of the file, for messages.
        encoder: by the names of timm's network.
        decoder: of a masked autoencoder, by the published names.
        left: names in the file of what is neither.
        said: what the layout says of these weights that a user must know.
        planes: names of the input planes in order, where the layout or the file says them.
        eps: of its normalisation layers, where the layout says it.
        heads: width -> attention heads, where the layout says it.
    """

    layout: str
    encoder: dict[str, Tensor]
    decoder: dict[str, Tensor] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    planes: tuple[str, ...] = ()
    eps: float | None = None
    heads: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """A way to name tensors.

    Attributes:
        name: for messages.
        signs: patterns, each of which a `NAME/DIMENSIONS` of a file in this layout matches.
        read: gives the parts.
    """

    name: str
    signs: tuple[str, ...]
    read: Callable[[Tensors], Parts]

    def fits(self, names: Collection[str]) -> bool:
        """Whether a file with these `NAME/DIMENSIONS` has this layout."""
        return all(any(re.fullmatch(sign, name) for name in names) for sign in self.signs)


def parts_of(path: Path, tensors: Tensors, own: Collection[str]) -> Parts:
    """The parts of a file of another project.

    Args:
        own: names of the tensors of the encoder that they are for.

    Raises:
        ConfigError: it has no layout that is known, or more than one.
    """
    names = [f"{name}/{tensor.ndim}" for name, tensor in tensors.items()]
    layouts = [layout for layout in LAYOUTS if layout.fits(names)]
    if len(layouts) > 1:
        told = " and ".join(layout.name for layout in layouts)
        raise ConfigError(f"{path}: its names are those of {told}; give a file of one network")
    if layouts:
        return layouts[0].read(tensors)
    taken = {name: public for name in own for public in public_names(name) if public in tensors}
    if not taken:
        known = "; ".join(layout.name for layout in LAYOUTS)
        raise ConfigError(
            f"{path}: its layout is not known (its first tensor is {brief(next(iter(tensors)))}); give weights of this "
            f"project, of the timm network of 'model.encoder.name', or in a layout of: {known}"
        )
    return _timm(tensors)


def public_names(name: str) -> tuple[str, ...]:
    """What timm may call a tensor of an encoder of this project.

    Its networks that give features have their stages flat: `stages_0.` is `stages.0.` in the whole network.
    """
    bare = name.removeprefix("network.")
    return tuple(dict.fromkeys([re.sub(r"^([a-z]+(?:_[a-z]+)*)_(\d+)\.", r"\1.\2.", bare), bare, name]))


def _renamed(name: str, table: _Names) -> str | None:
    """A name by a table; None: the table leaves it out."""
    for pattern, public in table.items():
        match = re.fullmatch(pattern, name)
        if match:
            return None if public is None else match.expand(public)
    return name


def _split(tensors: Tensors, table: _Names) -> tuple[dict[str, Tensor], dict[str, Tensor], tuple[str, ...]]:
    """Encoder, decoder, and the names of the rest, by a table of names."""
    encoder: dict[str, Tensor] = {}
    decoder: dict[str, Tensor] = {}
    left: list[str] = []
    for name, tensor in tensors.items():
        public = _renamed(name, table)
        if public is None:
            left.append(name)
        elif public.startswith("decoder_") or public == "mask_token":
            decoder[public] = tensor
        else:
            encoder[public] = tensor
    # A function of its sizes, and so not learnt.
    decoder.pop("decoder_pos_embed", None)
    return encoder, decoder, tuple(left)


# Heads and what stands between them and the encoder, in timm's networks and in facebookresearch/mae.
_HEADS = r"(head|head_dist|fc|fc_norm|classifier|pre_logits|conv_head)\..*"
# Width -> heads of the plain vision transformers of the papers: Dosovitskiy et al. 2021, Touvron et al. 2021, He et al.
# 2022.
_PAPERS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}


def _timm(tensors: Tensors) -> Parts:
    """Names of timm, which facebookresearch/mae has, too; there with the decoder."""
    encoder, decoder, left = _split(tensors, {_HEADS: None})
    if "decoder_embed.weight" not in decoder:
        # Such as DINOv2's, which no decoder goes with.
        left, decoder = (*left, *decoder), {}
    first = encoder.get("patch_embed.proj.weight")
    rgb = first is not None and first.ndim == 4 and first.shape[1] == 3
    said = ("3 input planes are taken for red, green and blue",) if rgb else ()
    planes = ("red", "green", "blue") if rgb else ()
    return Parts("timm or facebookresearch/mae", encoder, decoder, left, said, planes, None, _PAPERS)


def _blocks(theirs: str, ours: str) -> dict[str, str | None]:
    """Names of the blocks of mmpretrain (mmcls), and of mmseg, whose attention is that of torch."""
    block = rf"{theirs}\.(\d+)\."
    return {
        rf"{block}ln([12])\.(.+)": rf"{ours}.\1.norm\2.\3",
        rf"{block}attn\.(qkv|proj)\.(.+)": rf"{ours}.\1.attn.\2.\3",
        rf"{block}attn\.attn\.in_proj_(.+)": rf"{ours}.\1.attn.qkv.\2",
        rf"{block}attn\.attn\.out_proj\.(.+)": rf"{ours}.\1.attn.proj.\2",
        rf"{block}ffn\.layers\.0\.0\.(.+)": rf"{ours}.\1.mlp.fc1.\2",
        rf"{block}ffn\.layers\.1\.(.+)": rf"{ours}.\1.mlp.fc2.\2",
    }


_OPENMMLAB: _Names = {
    r"backbone\.cls_token": "cls_token",
    r"backbone\.pos_embed": "pos_embed",
    r"backbone\.patch_embed\.projection\.(.+)": r"patch_embed.proj.\1",
    **_blocks(r"backbone\.layers", "blocks"),
    r"backbone\.ln1\.(.+)": r"norm.\1",
    r"backbone\.ln2\..+": None,
    r"neck\.(mask_token|decoder_embed\..+|decoder_pred\..+|decoder_pos_embed)": r"\1",
    **_blocks(r"neck\.decoder_blocks", "decoder_blocks"),
    r"neck\.ln1\.(.+)": r"decoder_norm.\1",
    # Heads, necks of other kinds, what makes batches.
    r"(?!backbone\.).+": None,
}


def _openmmlab(tensors: Tensors) -> Parts:
    """The vision transformer of mmselfsup, mmpretrain and mmseg: a whole network, or its backbone alone."""
    if not any(name.startswith("backbone.") for name in tensors):
        tensors = {f"backbone.{name}": tensor for name, tensor in tensors.items()}
    encoder, decoder, left = _split(tensors, _OPENMMLAB)
    decoder = decoder if "decoder_embed.weight" in decoder else {}
    heads = {192: 3, 384: 6, 1024: 16, 1280: 16, 1408: 16}
    return Parts("mmselfsup, mmpretrain or mmseg", encoder, decoder, left, eps=1e-6, heads=heads)


_PRITHVI: _Names = {
    # Only with dates and places beside the images.
    r"(?:encoder\.)?(temporal|location)_embed_enc\..+": None,
    r"(?:decoder\.)?(temporal|location)_embed_dec\..+": None,
    r"(?:decoder\.)?(mask_token|decoder_.+)": r"\1",
    r"encoder\.(.+)": r"\1",
    _HEADS: None,
}


def _prithvi(tensors: Tensors) -> Parts:
    """The encoder of Prithvi-EO 1 and 2, for one date: of its fixed positions those of the first."""
    encoder, decoder, left = _split(tensors, _PRITHVI)
    said = []
    kernel = encoder["patch_embed.proj.weight"]
    if kernel.shape[2] == 1:
        encoder["patch_embed.proj.weight"] = kernel[:, :, 0]
    positions = encoder.get("pos_embed")
    if positions is not None and positions.ndim == 3:
        dates = _dates(positions[0, 1:])
        kept = 1 + (positions.shape[1] - 1) // dates
        encoder["pos_embed"] = positions[:, :kept]
        said.append(f"made for {dates} dates; the positions of the first are taken")
    bands = ("blue", "green", "red", "nir_narrow", "swir_1", "swir_2")
    known = bands if kernel.shape[1] == len(bands) else ()
    heads = {256: 4, 768: 12, 1024: 16, 1280: 16}
    return Parts("Prithvi-EO", encoder, decoder, left, tuple(said), known, 1e-5, heads)


def _dates(positions: Tensor) -> int:
    """Dates that positions [dates * h * w, D] are for: their first 12 of 16 channels say the place, and repeat."""
    length, width = positions.shape
    place = positions[:, : width // 16 * 12]
    for dates in range(length, 1, -1):
        patches = length // dates
        if length % dates or math.isqrt(patches) ** 2 != patches or patches == 1:
            continue
        again = place.unflatten(0, (dates, patches))
        if torch.allclose(again, again[:1].expand_as(again), atol=1e-4):
            return dates
    return 1


# The input of TerraMind that is taken: Sentinel-1 GRD in dB.
_SENTINEL_1 = r"encoder_embeddings\.untok_sen1grd@224"
_TERRAMIND: _Names = {
    rf"{_SENTINEL_1}\.proj\.weight": "patch_embed.proj.weight",
    rf"{_SENTINEL_1}\.mod_emb": "patch_embed.proj.bias",
    rf"{_SENTINEL_1}\.pos_emb": "pos_embed",
    r"encoder\.(\d+)\.mlp\.fc1\.(.+)": r"blocks.\1.mlp.fc1_g.\2",
    r"encoder\.(\d+)\.mlp\.fc3\.(.+)": r"blocks.\1.mlp.fc1_x.\2",
    r"encoder\.(\d+)\.(.+)": r"blocks.\1.\2",
    r"encoder_norm\.(.+)": r"norm.\1",
    r"(?!encoder\.).+": None,
}


def _terramind(tensors: Tensors) -> Parts:
    """The encoder of TerraMind 1 with its input for Sentinel-1 GRD.

    Its projection is a matrix over rows, columns and channels of a patch, without bias; an embedding of the kind of
    input is added to each token instead, which is the same.
    """
    encoder, _, left = _split(tensors, _TERRAMIND)
    kernel, bias = encoder.get("patch_embed.proj.weight"), encoder.get("patch_embed.proj.bias")
    patch = 16
    if kernel is not None and kernel.ndim == 2 and kernel.shape[1] % patch**2 == 0:
        cells = kernel.unflatten(1, (patch, patch, -1))
        encoder["patch_embed.proj.weight"] = cells.permute(0, 3, 1, 2)
    if bias is not None:
        encoder["patch_embed.proj.bias"] = bias.flatten()
    # Where its norms have no bias at all.
    norms = [name for name in encoder if re.fullmatch(r"(blocks\.\d+\.norm[12]|norm)\.weight", name)]
    for name in norms:
        encoder.setdefault(name.replace(".weight", ".bias"), torch.zeros_like(encoder[name]))
    said = ("of its inputs that for Sentinel-1 GRD is taken, which has learnt from VV and VH in dB",)
    return Parts("TerraMind", encoder, {}, left, said, ("vv", "vh"), 1e-6, {768: 12, 1024: 16})


LAYOUTS = (
    Layout("Prithvi-EO", (r"(encoder\.)?patch_embed\.proj\.weight/5",), _prithvi),
    Layout("TerraMind", (r"encoder_embeddings\..+", r"encoder\.0\..+"), _terramind),
    Layout(
        "mmselfsup, mmpretrain or mmseg",
        (r"(backbone\.)?layers\.0\.ln1\.weight/1", r"(backbone\.)?patch_embed\.projection\.weight/4"),
        _openmmlab,
    ),
    Layout(
        "timm or facebookresearch/mae",
        (r"patch_embed\.proj\.weight/4", r"blocks\.0\.attn\.qkv\.weight/2", r"blocks\.0\.norm1\.weight/1"),
        _timm,
    ),
)
