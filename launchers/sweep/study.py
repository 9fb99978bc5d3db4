"""What a sweep YAML says, and the trials that follow from it; no Ray and no torch here.

    out: studies/label-efficiency
    common: {data: {shards: shards}}
    pretrain:
      mae: {base: pretrain_vit}
    finetune:
      vit_pretrained: {base: finetune_vit, init: mae}
      unet: {base: scratch_unet}
    grid:
      data.label_fraction: [0.2, 1.0]

An entry of `pretrain` or `finetune` is a run's config as in a file of its own: `base:` and what differs. Laid over one
another, the later over the former: the base, `common`, the entry, one value of each key of `grid` (fine-tunings only).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from arcticseg import config
from arcticseg.engine.config import accumulation_steps
from arcticseg.errors import ConfigError
from arcticseg.run import config as run_config
from arcticseg.run.config import RunConfig

Phase = Literal["pretrain", "finetune"]
_TASKS: dict[Phase, str] = {"pretrain": "pretrain", "finetune": "segment"}

# Keys that do not change what is learnt: trials that differ only in these are the same.
_NO_EFFECT = (
    "out",
    "tracking.",
    "checkpoint_every",
    "engine.threads",
    "data.workers",
    "data.cache",
    "data.patience",
    "data.retries",
)

# Encoder and input must be the same before and after pretraining, but for these keys of the encoder.
_OWN = ("drop_path",)


@dataclass(frozen=True)
class Resources:
    """What Ray lends to one trial, all on one machine."""

    # Processes of the training.
    ranks: int = 1
    cpus: int = 1
    # One a rank; a share of one, such as 0.5, lets single ranks live together on a GPU; 0: none.
    gpus: float = 0.0


@dataclass(frozen=True)
class PhaseResources:
    """Resources of a trial, by phase."""

    pretrain: Resources = field(default_factory=Resources)
    finetune: Resources = field(default_factory=Resources)


@dataclass(frozen=True)
class AshaConfig:
    """Asynchronous successive halving of fine-tunings, by the combined score of their validations."""

    # Optimiser steps before which no trial is stopped; then at this times reduction, reduction^2, ...
    grace: int = 1000
    # One trial in so many goes on.
    reduction: int = 4


@dataclass(frozen=True)
class SweepConfig:
    """A study: pretrainings, each once, then fine-tunings."""

    # Folder of the study: runs, their configs, results.
    out: str
    resources: PhaseResources = field(default_factory=PhaseResources)
    # Trials at a time; null: as many as resources allow.
    max_concurrent: int | None = None
    # none runs every fine-tuning to its end; asha stops poor ones early, for searches.
    scheduler: Literal["none", "asha"] = "none"
    asha: AshaConfig = field(default_factory=AshaConfig)
    # Keys of every run.
    common: Mapping[str, Any] = field(default_factory=dict)
    # Name -> config of a pretraining.
    pretrain: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    # Name -> config of a fine-tuning, with `init:` the name of the pretraining to start from.
    finetune: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    # Dotted key (or `init`) -> values; every fine-tuning runs with every combination.
    grid: Mapping[str, Any] = field(default_factory=dict)


# Parts of the YAML that hold keys of RunConfig, which are checked when they are built into one.
_FREE = ("common", "pretrain", "finetune", "grid")


@dataclass(frozen=True)
class Trial:
    """One training of a study.

    Attributes:
        phase: `pretrain` or `finetune`.
        name: unique in its phase, and the name of its folder.
        model: the entry that it comes from.
        grid: dotted key -> value of this trial.
        init: name of the pretraining that it starts from; None: none of this study.
        config: resolved and checked, with absolute paths.
        resources: what it runs on.
    """

    phase: Phase
    name: str
    model: str
    grid: Mapping[str, Any]
    init: str | None
    config: RunConfig
    resources: Resources

    @property
    def key(self) -> str:
        """Phase and name."""
        return f"{self.phase}/{self.name}"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.config.out)

    @property
    def finished(self) -> bool:
        """Whether its training has reached its end."""
        return (self.folder / "weights" / "last.safetensors").is_file()


def load(name: str | Path, overrides: Sequence[str] = ()) -> tuple[SweepConfig, tuple[Trial, ...]]:
    """A study from a file (or shipped name) and overrides, and its trials, pretrainings first, all checked.

    Raises:
        ConfigError: anything wrong with it.
    """
    keys = config.read(name)
    keys["grid"] = _nested(_mapping(keys.get("grid"), "grid"))
    keys = config.override(keys, overrides)
    free = {part: _mapping(keys.pop(part, None), part) for part in _FREE}
    sweep = dataclasses.replace(
        config.build(SweepConfig, keys),
        common=free["common"],
        pretrain=free["pretrain"],
        finetune=free["finetune"],
        grid=dict(_leaves(free["grid"])),
    )
    _check(sweep)
    return sweep, tuple(_trials(sweep, config.find(name).parent))


def _mapping(value: Any, key: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"key '{key}' is {value!r}; set a mapping of keys")
    return dict(value)


def _nested(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Keys in which `a.b: v` stands as `a: {b: v}`, as overrides of the command line do."""
    out: dict[str, Any] = {}
    for dotted, value in keys.items():
        for part in reversed(str(dotted).split(".")):
            value = {part: value}
        out = config.merge(out, value)
    return out


def _leaves(keys: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in keys.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _check(sweep: SweepConfig) -> None:
    def need(condition: bool, key: str, value: object, remedy: str) -> None:
        if not condition:
            raise ConfigError(f"key '{key}' is {value!r}; {remedy}")

    for phase in _TASKS:
        found: Resources = getattr(sweep.resources, phase)
        at = f"resources.{phase}"
        need(found.ranks >= 1, f"{at}.ranks", found.ranks, "set 1 or more")
        need(found.cpus >= 1, f"{at}.cpus", found.cpus, "set 1 or more")
        shared = found.ranks == 1 and 0 < found.gpus < 1
        remedy = f"set 0 or ranks ({found.ranks}), or a share below 1 for a single rank"
        need(shared or found.gpus in (0, found.ranks), f"{at}.gpus", found.gpus, remedy)
        for name in getattr(sweep, phase):
            good = re.fullmatch(r"[A-Za-z0-9_-]+", str(name)) is not None
            need(good, phase, name, "name it with letters, digits, - and _: it names folders")
    most = sweep.max_concurrent
    need(most is None or most >= 1, "max_concurrent", most, "set 1 or more, or null")
    need(sweep.asha.grace >= 1, "asha.grace", sweep.asha.grace, "set 1 or more")
    need(sweep.asha.reduction >= 2, "asha.reduction", sweep.asha.reduction, "set 2 or more")
    need(bool(sweep.pretrain or sweep.finetune), "finetune", dict(sweep.finetune), "name at least one run")
    for key, values in sweep.grid.items():
        need(isinstance(values, list) and bool(values), f"grid.{key}", values, "set a list of values")


def _trials(sweep: SweepConfig, beside: Path) -> Iterator[Trial]:
    out = Path(os.path.abspath(sweep.out))
    # Name -> trial; several names of the same config share one.
    pretrainings: dict[str, Trial] = {}
    for name, entry in sweep.pretrain.items():
        trial = _trial(sweep, out, beside, "pretrain", name, name, entry, {}, {})
        same = next((one for one in pretrainings.values() if identity(one.config) == identity(trial.config)), None)
        pretrainings[name] = same or trial
        if same is None:
            yield trial
    names = set()
    for model, entry in sweep.finetune.items():
        for values in itertools.product(*sweep.grid.values()):
            point = dict(zip(sweep.grid, values, strict=True))
            name = "-".join([model, *(f"{short(key, sweep.grid)}-{_word(value)}" for key, value in point.items())])
            if name in names:
                raise ConfigError(f"finetune '{name}': stands twice; leave one of the equal values of 'grid' out")
            names.add(name)
            yield _trial(sweep, out, beside, "finetune", name, model, entry, point, pretrainings)


def short(key: str, keys: Sequence[str] | Mapping[str, Any]) -> str:
    """The last part of a dotted key where it is the only one of `keys` to end so."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key


def _word(value: Any) -> str:
    """A value as part of a file name."""
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n")
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", text).strip("_") or "none"


def _trial(
    sweep: SweepConfig,
    out: Path,
    beside: Path,
    phase: Phase,
    name: str,
    model: str,
    entry: Any,
    point: Mapping[str, Any],
    pretrainings: Mapping[str, Trial],
) -> Trial:
    resources: Resources = getattr(sweep.resources, phase)
    try:
        entry = _mapping(entry, f"{phase}.{model}")
        for where, found in (("common", sweep.common), (f"{phase}.{model}", entry)):
            if "out" in found:
                raise ConfigError(
                    f"key '{where}.out' is {found['out']!r}; leave it out: the study gives each run its folder"
                )
        layers = [dict(sweep.common), dict(entry), _nested(point)]
        named = {
            key: value for layer in layers for key in ("base", "init") if (value := layer.pop(key, None)) is not None
        }
        base, init = named.get("base"), named.get("init")
        parts = [*(config.layers(config.find(str(base), beside)) if base is not None else ()), *layers]
        first = None
        if init is not None:
            if init not in pretrainings:
                known = ", ".join(pretrainings) or "none"
                raise ConfigError(f"key 'init' is {init!r}; name one of the study's pretrainings ({known})")
            first = pretrainings[init]
            parts.append({"model": {"init_from": first.config.out}})
        cfg = _absolute(run_config.build([*parts, {"out": str(out / phase / name)}]))
        if cfg.task != _TASKS[phase]:
            raise ConfigError(f"key 'task' is {cfg.task!r}; set {_TASKS[phase]}, or move it to the other phase")
        cfg = dataclasses.replace(
            cfg,
            engine=dataclasses.replace(
                cfg.engine, threads=cfg.engine.threads or max(1, resources.cpus // resources.ranks)
            ),
            tracking=dataclasses.replace(cfg.tracking, group=cfg.tracking.group or out.name),
        )
        accumulation_steps(cfg.engine, resources.ranks, pairs=cfg.data.augment.cutmix > 0)
        if first is not None:
            _check_fits(cfg, first)
    except ConfigError as error:
        raise ConfigError(f"{phase} '{name}': {error}") from error
    return Trial(phase, name, model, point, None if first is None else first.name, cfg, resources)


def _check_fits(cfg: RunConfig, first: Trial) -> None:
    """Raise ConfigError where the pretraining's encoder is another one than the fine-tuning's."""
    theirs = first.config
    mine, other = (config.to_dict(part.model.encoder) for part in (cfg, theirs))
    pairs = [(f"model.encoder.{key}", mine.get(key), other.get(key)) for key in mine if key not in _OWN]
    pairs += [("data.valid_plane", cfg.data.valid_plane, theirs.data.valid_plane)]
    if cfg.data.names != theirs.data.names:
        pairs += [("data.channels", list(cfg.data.channels), list(theirs.data.channels))]
    for key, mine, other in pairs:
        if mine != other:
            raise ConfigError(f"key '{key}' is {mine!r}; pretraining '{first.name}' has {other!r}: set the same")


def _absolute(cfg: RunConfig) -> RunConfig:
    """Relative paths are relative to where the sweep is started; Ray's workers work elsewhere."""

    def path(text: str | None) -> str | None:
        return text if text is None or "://" in text else os.path.abspath(text)

    shards = tuple(path(place) or "" for place in cfg.data.places)
    data = dataclasses.replace(
        cfg.data,
        shards=shards if len(shards) > 1 else shards[0],
        scenes=path(cfg.data.scenes),
        cache=path(cfg.data.cache),
    )
    return dataclasses.replace(
        cfg, data=data, model=dataclasses.replace(cfg.model, init_from=path(cfg.model.init_from))
    )


def differences(before: RunConfig, now: RunConfig) -> list[tuple[str, Any, Any]]:
    """(dotted key, value before, value now) of the keys that change what is learnt."""
    old, new = dict(_leaves(config.to_dict(before))), dict(_leaves(config.to_dict(now)))
    return [
        (key, old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith(_NO_EFFECT)
    ]


def identity(cfg: RunConfig) -> str:
    """A text that is equal for configs that learn the same."""
    kept = {key: value for key, value in _leaves(config.to_dict(cfg)) if not key.startswith(_NO_EFFECT)}
    return json.dumps(kept, sort_keys=True)
