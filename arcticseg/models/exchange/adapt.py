"""Tensors of another encoder made to fit: positions, patches and input planes, by stated rules.

All else must have the names and shapes of the encoder that it is for, or is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from arcticseg.errors import BadValueError, ConfigError
from arcticseg.models.build import build_encoder
from arcticseg.models.config import ModelConfig
from arcticseg.models.exchange.layouts import Parts, public_names
from arcticseg.models.weights import check_finite
from arcticseg.shown import brief

Tensors = Mapping[str, Tensor]

# What may be missing: the norm behind the last block, where the source has it behind a pooling or not at all.
_NORM = ("norm.weight", "norm.bias")
# What stands behind an encoder that gives the maps of its blocks alone.
_BEHIND = ("norm.", "fc_norm.")


@dataclass(frozen=True)
class Planes:
    """Input planes by name.

    Attributes:
        theirs: of the source, in order; empty: not known.
        ours: of this run, in order.
        rule: for those of ours that the source lacks; None: both must be the same.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    rule: str | None

    def check(self, path: Path, count: int) -> None:
        """See that planes can be matched.

        Args:
            count: input planes of the source's weights.

        Raises:
            ConfigError: their names are not known, or do not fit, or differ without a rule.
        """
        if len(self.theirs) != count:
            remedy = f"name the {count} input planes of {path}, in order, such as [hh, hv]"
            raise BadValueError("model.init_channels", list(self.theirs), remedy)
        if self.theirs == self.ours:
            return
        if self.rule is None:
            raise ConfigError(
                f"key 'model.init_adapt' is None; {path} has learnt from the planes {', '.join(self.theirs)}, and the "
                f"planes of this run are {', '.join(self.ours)}: set mean or zero, for those that it lacks"
            )
        if self.rule == "zero" and not set(self.theirs) & set(self.ours):
            raise BadValueError("model.init_adapt", "zero", f"set mean: {path} has none of the planes of this run")

    def matched(self, weight: Tensor) -> Tensor:
        """A weight [D, planes of the source, ...] for our planes.

        A plane of both keeps its own; one that the source lacks gets the mean over the source's channels, or zero, by
        the rule; one that says where there are data gets zero.
        """
        channels = [i for i, name in enumerate(self.theirs) if not _is_flag(name)]
        blank = torch.zeros_like(weight[:, 0])
        mean = weight[:, channels].mean(dim=1) if self.rule == "mean" and channels else blank
        columns = {name: weight[:, i] for i, name in enumerate(self.theirs)}
        return torch.stack([columns.get(name, blank if _is_flag(name) else mean) for name in self.ours], dim=1)

    def told(self) -> str:
        """What became of them, for the user."""
        both = [name for name in self.ours if name in self.theirs]
        new = [name for name in self.ours if name not in self.theirs]
        left = [name for name in self.theirs if name not in self.ours]
        start = "the mean over its channels" if self.rule == "mean" else "zero"
        parts = [f"planes that it has: {', '.join(both) or 'none'}"]
        parts += [f"new, from {start} (from zero where they say what is valid): {', '.join(new)}"] if new else []
        parts += [f"left out: {', '.join(left)}"] if left else []
        return "; ".join(parts)


def _is_flag(plane: str) -> bool:
    """Whether a plane says where there are data: a mean over channels is no start for it."""
    return plane == "valid" or plane.startswith("missing_")


def input_weights(model: ModelConfig, in_chans: int, tile: int) -> set[str]:
    """Names of an encoder's tensors that depend on the number of input planes, along their second dimension."""
    with torch.device("meta"):
        now, more = (build_encoder(model, count, tile).state_dict() for count in (in_chans, in_chans + 1))
    return {name for name, tensor in now.items() if more[name].shape != tensor.shape}


def renamed(given: Tensors, own: Collection[str]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors by names of an encoder of this project, and the names of what only stands behind an encoder.

    What is unknown keeps its name.
    """
    names = {public: name for name in own for public in reversed(public_names(name)) if public in given}
    surplus = [name for name in given if name not in names and name.startswith(_BEHIND)]
    return {names.get(name, name): tensor for name, tensor in given.items() if name not in surplus}, surplus


def adapted(
    path: Path, parts: Parts, encoder: nn.Module, planes: Planes | None, inputs: Collection[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """The encoder's tensors by its own names, made to fit, and sentences about what was done.

    Args:
        parts: of the source.
        planes: to match; None: shapes tell what does not fit.
        inputs: of `input_weights`.

    Raises:
        ConfigError: what no rule makes fit.
    """
    own = encoder.state_dict()
    given, surplus = renamed(parts.encoder, own)
    told = []
    _check_tokens(path, given, own)
    changed: dict[str, Tensor] = {}
    if planes is not None:
        for name in sorted(given.keys() & set(inputs)):
            planes.check(path, given[name].shape[1] if given[name].ndim > 1 else 0)
            if planes.theirs != planes.ours:
                changed[name] = planes.matched(given[name].float())
        told += [planes.told()] if changed else []
    told += _patches(given | changed, own, changed)
    told += _positions(path, given, own, encoder, changed)
    lacked = [name for name in own.keys() - given.keys() if name in _NORM or name.endswith(".num_batches_tracked")]
    if _NORM[0] in lacked:
        told.append("it has no norm behind the last block; ours begins as it is made")
    given |= changed | {name: own[name] for name in lacked}
    for name, tensor in given.items():
        if name in own and tensor.shape == own[name].shape:
            check_finite(path, name, tensor)
    taken = len(given) - len(changed) - len(lacked)
    told.insert(0, f"{taken} of {len(own)} tensors of the encoder are taken as they are, {len(changed)} adapted")
    left = [*surplus, *parts.left]
    told += [f"{len(left)} other tensors are left ({brief(left[0])} is the first)"] if left else []
    return given, told


def _check_tokens(path: Path, given: Tensors, own: Tensors) -> None:
    """See that both encoders have the same tokens beside the patches.

    Raises:
        ConfigError: they have not.
    """
    if "patch_embed.proj.weight" not in given or "pos_embed" not in own:
        return
    for name in ("cls_token", "reg_token"):
        if (name in given) != (name in own):
            theirs, ours = ("has", "has not") if name in given else ("has not", "has")
            raise ConfigError(
                f"{path}: {theirs} {name}, which the encoder of this run {ours}; set 'model.encoder.name' to a network "
                "like it (vit_base_patch16_224 has a class token, vit_base_patch16_gap_224 has none)"
            )


def _patches(given: Tensors, own: Tensors, changed: dict[str, Tensor]) -> list[str]:
    """Bring the patch embedding of a vision transformer to our patch size, into `changed`."""
    name = "patch_embed.proj.weight"
    theirs, ours = given.get(name), own.get(name)
    if theirs is None or ours is None or "pos_embed" not in own or theirs.ndim != 4 or ours.ndim != 4:
        return []
    before, now = tuple(theirs.shape[2:]), tuple(ours.shape[2:])
    if before == now or theirs.shape[:2] != ours.shape[:2]:
        return []
    from timm.layers import resample_patch_embed

    changed[name] = resample_patch_embed(theirs.float(), list(now))
    return [f"its patches of {before[0]} x {before[1]} pixels are resampled to {now[0]} x {now[1]}"]


def _positions(path: Path, given: Tensors, own: Tensors, encoder: nn.Module, changed: dict[str, Tensor]) -> list[str]:
    """Interpolate the positions of a vision transformer to our grid, into `changed`.

    Raises:
        ConfigError: they are not those of a square grid.
    """
    name = "pos_embed"
    theirs, ours, grid = given.get(name), own.get(name), getattr(encoder, "grid", None)
    if theirs is None or ours is None or grid is None or theirs.ndim != 3 or theirs.shape == ours.shape:
        return []
    if theirs.shape[2] != ours.shape[2]:
        return []
    prefix = ours.shape[1] - grid[0] * grid[1]
    edge = math.isqrt(max(0, theirs.shape[1] - prefix))
    if edge == 0 or edge**2 + prefix != theirs.shape[1]:
        raise ConfigError(
            f"{path}: {name} has {theirs.shape[1]} positions, which are no square grid beside {prefix} of other "
            "tokens; set 'model.encoder.name' to a network with the same tokens"
        )
    from timm.layers import resample_abs_pos_embed

    changed[name] = resample_abs_pos_embed(theirs.float(), list(grid), [edge, edge], num_prefix_tokens=prefix)
    return [f"its positions are interpolated from {edge} x {edge} to {grid[0]} x {grid[1]} patches"]


def decoder_for(
    path: Path, parts: Parts, model: nn.Module, planes: Sequence[str], targets: Sequence[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a masked autoencoder's decoder by our names, and a sentence about them.

    It is taken whole, or left: fine-tuning throws it away. Its last layer is taken where the source reconstructs all
    our targets.

    Args:
        planes: of the source, which it reconstructs in this order.
        targets: planes that `model` reconstructs, in order.
    """
    own = {name: value for name, value in model.state_dict().items() if name.startswith(("decoder_", "mask_token"))}
    last = {name for name in own if name.startswith("decoder_pred.")}
    given = dict(parts.decoder)
    if not given:
        return {}, ["it has no decoder for a pretraining; ours begins as it is made"]
    for name in last & given.keys():
        cells = len(own[name]) // len(targets)
        if set(targets) <= set(planes) and len(given[name]) == cells * len(planes):
            rows = given[name].unflatten(0, (cells, len(planes)))
            given[name] = rows[:, [planes.index(target) for target in targets]].flatten(0, 1)
    fits = {name for name, tensor in given.items() if name in own and tensor.shape == own[name].shape}
    body = own.keys() - last
    odd = sorted((body | (given.keys() - last)) - (fits - last))
    if odd:
        return {}, [f"its decoder is another than ours ({brief(odd[0])} differs), and is left"]
    taken = body | (last if last <= fits else set())
    for name in taken:
        check_finite(path, name, given[name])
    rest = "" if last <= taken else ", but for the last layer, which is for other planes or patches"
    return {name: given[name] for name in taken}, [f"{len(taken)} tensors of the decoder are taken{rest}"]
