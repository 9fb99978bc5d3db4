"""What an encoder computes depends on more than its tensors: what must be as it was when its weights were learnt.

Heads, channels, statistics and spacing change no tensor's shape, so weights load into a network that computes something
else. Trainings (`model.init_from`) and sweeps ask the same two functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from arcticseg.data.config import DataConfig
from arcticseg.errors import ConfigError
from arcticseg.models.config import ModelConfig
from arcticseg.run.config import RunConfig
from arcticseg.run.folder import differences

# Keys of an encoder that matter while it learns only.
_TRAINING_ONLY = ("drop_path", "checkpoint_blocks")
# Means that differ by more than this share of a standard deviation, or standard deviations by more, are told.
_CLOSE = 0.05

Statistics = Mapping[str, Sequence[float]]


def check_encoder(model: ModelConfig, data: DataConfig, now: RunConfig, source: str) -> None:
    """Refuse an encoder that would compute something else with the weights of another run.

    Args:
        model, data: of the run that the weights come from; the rest of its config, such as hooks of its own, may be
            unknown here.
        source: its name, for the message.

    Input planes may differ where `model.init_adapt` says what to do about that.

    Raises:
        ConfigError: a key of the encoder, or its channels, differ.
    """
    changed = [
        (f"model.encoder.{key}", theirs, ours)
        for key, theirs, ours in differences(model.encoder, now.model.encoder)
        if key not in _TRAINING_ONLY
    ]
    same = now.model.init_adapt is None
    if same and data.names != now.data.names:
        changed.append(("data.channels", list(data.channels), list(now.data.channels)))
    for key in ("valid_plane", "missing_planes"):
        if same and getattr(data, key) != getattr(now.data, key):
            changed.append((f"data.{key}", getattr(data, key), getattr(now.data, key)))
    if changed:
        key, theirs, ours = changed[0]
        raise ConfigError(f"key '{key}' is {ours!r}; {source} has {theirs!r}: set the same")


def odd_inputs(data: DataConfig, now: DataConfig, source: str) -> Iterator[str]:
    """Sentences about inputs that differ, by config, from those that an encoder has learnt from."""
    if data.statistics != now.statistics:
        yield (
            f"key 'data.statistics' is '{now.statistics}', so inputs are normalised otherwise than for {source} "
            f"('{data.statistics}'); set the same unless that is meant"
        )
    if data.factors and now.factors and set(now.factors) - set(data.factors):
        yield (
            f"key 'data.factors' is {list(now.factors)}; {source} has learnt from {list(data.factors)}, "
            "so pixels have another size; add them to its factors unless that is meant"
        )


def odd_facts(
    facts: Mapping[str, Any], statistics: Statistics, tile: int, source: str, factors: Sequence[int] = ()
) -> Iterator[str]:
    """Sentences about what stands beside weights and differs from what a run has.

    Args:
        facts: what `models.weights.facts_of` gives.
        statistics: channel -> mean and standard deviation of this run; empty: the published ones.
        tile: edge of this run's tiles in pixels.
        factors: of this run's samples; none: not to be compared.
    """
    theirs: Statistics = facts["statistics"]
    far = [name for name in statistics if name in theirs and not _is_close(theirs[name], statistics[name])]
    if far:
        (old_mean, old_std), (mean, std) = theirs[far[0]], statistics[far[0]]
        yield (
            f"statistics of the shards differ from those of {source} in {len(far)} channels ({far[0]}: mean "
            f"{mean:.4g}, std {std:.4g}, before {old_mean:.4g}, {old_std:.4g}); set 'data.statistics' to published in "
            "both"
        )
    if facts["tile"] != tile:
        yield f"tiles have {tile} pixels; {source} has learnt from tiles of {facts['tile']}"
    new = sorted(set(factors) - set(facts["factors"])) if factors else []
    if new:
        yield (
            f"samples have downsampling factors {new}; {source} has learnt from {list(facts['factors'])}, so pixels "
            "have another size; set 'data.factors' unless that is meant"
        )


@dataclass(frozen=True)
class Unseen:
    """What an encoder computes and no tensor shows; None: not known.

    Attributes:
        heads: of its attention.
        eps: that its norms add to the variance.
    """

    heads: int | None
    eps: float | None


def odd_layout(theirs: Unseen, ours: Unseen, source: str) -> Iterator[str]:
    """Sentences about what networks of another project's layout are published with, and this run's has otherwise."""
    if theirs.heads is not None and ours.heads is not None and theirs.heads != ours.heads:
        yield (
            f"the encoder has {ours.heads} attention heads; networks like {source} are published with {theirs.heads}: "
            "set 'model.encoder.num_heads' unless yours has others"
        )
    if theirs.eps is not None and ours.eps is not None and theirs.eps != ours.eps:
        yield f"norms add {ours.eps:g} to the variance; those of {source} add {theirs.eps:g}, a small difference"


def _is_close(before: Sequence[float], now: Sequence[float]) -> bool:
    return abs(now[0] - before[0]) <= _CLOSE * before[1] and abs(now[1] - before[1]) <= _CLOSE * before[1]
