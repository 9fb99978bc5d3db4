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

An entry of `pretrain` or `finetune` is a run's config as in a file of its own: `base:` and what differs. Later keys
replace earlier ones, in this order: the base, `common`, the entry, a value of each key of `grid` (fine-tunings only).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import warnings
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
from arcticseg.run.folder import differences, finished, no_effect
from arcticseg.run.inherit import check_encoder, odd_inputs
from launchers.imports import absolute

Phase = Literal["pretrain", "finetune"]
# In the order that they run in.
PHASES: tuple[Phase, ...] = ("pretrain", "finetune")
# Key of a run that `seeds` sets.
SEED = "seed"
_TASKS: dict[Phase, str] = {"pretrain": "pretrain", "finetune": "segment"}


@dataclass(frozen=True)
class Resources:
    """What Ray lends to a trial, all on the same machine."""

    # Processes of the training.
    ranks: int = 1
    cpus: int = 1
    # A GPU for each rank; a share, such as 0.5, lets trials of a single rank live together on a GPU; 0: none.
    gpus: float = 0.0


@dataclass(frozen=True)
class PhaseResources:
    """Resources of a trial, by phase."""

    pretrain: Resources = field(default_factory=Resources)
    finetune: Resources = field(default_factory=Resources)


@dataclass(frozen=True)
class AshaConfig:
    """Asynchronous successive halving of fine-tunings, by the combined score of their validations."""

    # Optimiser steps before the first decision; the next are at grace x reduction, grace x reduction^2, ...
    grace: int = 1000
    # The share of the trials that goes on is 1 / reduction.
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
    # Dotted key (or `init`) -> values; every fine-tuning runs with every combination. An entry of `finetune` may have a
    # `grid` of its own, whose values stand in for these.
    grid: Mapping[str, Any] = field(default_factory=dict)
    # Every run is done with each of these seeds, and a fine-tuning starts from the pretraining of its own seed; empty:
    # the seeds of the configs.
    seeds: tuple[int, ...] = ()


# Parts of the YAML that hold keys of RunConfig, which are checked when the trials' configs are built.
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
        return finished(self.folder)


def config_path(out: Path, trial: Trial) -> Path:
    """Where a study's folder holds the config that a trial runs with."""
    return out / "configs" / trial.phase / f"{trial.name}.yaml"


def load(
    name: str | Path, overrides: Sequence[str] = (), imports: Sequence[str] = ()
) -> tuple[SweepConfig, tuple[Trial, ...]]:
    """A study from a file (or shipped name) and overrides, and its trials, pretrainings first, all checked.

    Args:
        imports: modules that every trial imports, besides those that its config names.

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
    return sweep, tuple(_trials(_Source(sweep, config.find(name).parent, imports)))


def _mapping(value: Any, key: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"key '{key}' is {value!r}; set a mapping of keys")
    return dict(value)


def _nested(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Keys with `a.b: v` written as `a: {b: v}`, as overrides of the command line are."""
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

    for phase in PHASES:
        resources: Resources = getattr(sweep.resources, phase)
        at = f"resources.{phase}"
        need(resources.ranks >= 1, f"{at}.ranks", resources.ranks, "set 1 or more")
        need(resources.cpus >= 1, f"{at}.cpus", resources.cpus, "set 1 or more")
        shared = resources.ranks == 1 and 0 < resources.gpus < 1
        remedy = f"set 0 or ranks ({resources.ranks}), or a share below 1 for a single rank"
        need(shared or resources.gpus in (0, resources.ranks), f"{at}.gpus", resources.gpus, remedy)
        for name in getattr(sweep, phase):
            good = re.fullmatch(r"[A-Za-z0-9_-]+", str(name)) is not None
            need(good, phase, name, "name it with letters, digits, - and _: it names folders")
    most = sweep.max_concurrent
    need(most is None or most >= 1, "max_concurrent", most, "set 1 or more, or null")
    need(sweep.asha.grace >= 1, "asha.grace", sweep.asha.grace, "set 1 or more")
    need(sweep.asha.reduction >= 2, "asha.reduction", sweep.asha.reduction, "set 2 or more")
    need(bool(sweep.pretrain or sweep.finetune), "finetune", dict(sweep.finetune), "name at least one run")
    for key, values in sweep.grid.items():
        _check_values(f"grid.{key}", values)
    need(len(set(sweep.seeds)) == len(sweep.seeds), "seeds", list(sweep.seeds), "name each once")
    need(not (sweep.seeds and SEED in sweep.grid), "grid.seed", sweep.grid.get("seed"), "leave it out: 'seeds' is set")


def _trials(source: _Source) -> Iterator[Trial]:
    sweep, pretrainings = source.sweep, source.pretrainings
    seeds: Sequence[int | None] = sweep.seeds or (None,)
    for model, entry in sweep.pretrain.items():
        for seed in seeds:
            point = {} if seed is None else {SEED: seed}
            trial = source.trial("pretrain", _name(model, point), model, entry, point)
            alike = [other for other in pretrainings.values() if identity(other.config) == identity(trial.config)]
            pretrainings[model, seed] = alike[0] if alike else trial
            if not alike:
                yield trial
    names = set()
    for model, entry in sweep.finetune.items():
        keys = dict(_mapping(entry, f"finetune.{model}"))
        grid = _grid(sweep, model, keys.pop("grid", None))
        for values in itertools.product(*grid.values()):
            point = dict(zip(grid, values, strict=True))
            name = _name(model, point)
            if name in names:
                raise ConfigError(f"finetune '{name}': stands twice; leave out one of the equal values of 'grid'")
            names.add(name)
            yield source.trial("finetune", name, model, keys, point)


def _grid(sweep: SweepConfig, model: str, own: Any) -> dict[str, Sequence[Any]]:
    """Dotted key -> values of the fine-tunings of an entry: those of its own grid, else those of the study."""
    where = f"finetune.{model}.grid"
    values_of = dict(_leaves(_nested(_mapping(own, where))))
    for key, values in values_of.items():
        if key not in sweep.grid:
            raise ConfigError(f"key '{where}.{key}' is {values!r}; name a key of 'grid', or set it in the entry itself")
        _check_values(f"{where}.{key}", values)
    return dict(sweep.grid) | values_of | ({SEED: sweep.seeds} if sweep.seeds else {})


def _check_values(key: str, values: Any) -> None:
    if not isinstance(values, list) or not values:
        raise ConfigError(f"key '{key}' is {values!r}; set a list of values")


def _name(model: str, point: Mapping[str, Any]) -> str:
    """The name of the trial of an entry at a point of the grid."""
    return "-".join([model, *(f"{short(key, point)}-{_word(value)}" for key, value in point.items())])


def short(key: str, keys: Sequence[str] | Mapping[str, Any]) -> str:
    """The last part of a dotted key where no other of `keys` ends so, else the whole key."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key


def _word(value: Any) -> str:
    """A value as part of a file name."""
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n")
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", text).strip("_") or "none"


@dataclass(frozen=True)
class _Source:
    """What the trials of a study are made from.

    Attributes:
        beside: folder of the study's file, where `base:` is looked up.
        imports: modules that every trial imports.
        pretrainings: (name, seed of `seeds` or None) -> trial, of those made so far; several of the same config share a
            trial.
    """

    sweep: SweepConfig
    beside: Path
    imports: Sequence[str]
    pretrainings: dict[tuple[str, int | None], Trial] = field(default_factory=dict)

    def trial(self, phase: Phase, name: str, model: str, entry: Any, point: Mapping[str, Any]) -> Trial:
        """The trial of an entry of `pretrain` or `finetune` at a point of the grid.

        Raises:
            ConfigError: anything wrong with it.
        """
        try:
            parts = [self.sweep.common, _mapping(entry, f"{phase}.{model}"), _nested(point)]
            for where, keys in zip(("common", f"{phase}.{model}"), parts, strict=False):
                if "out" in keys:
                    raise ConfigError(
                        f"key '{where}.out' is {keys['out']!r}; leave it out: the study gives each run its folder"
                    )
            first = self._first(phase, _last(parts, "init"), point.get(SEED) if self.sweep.seeds else None)
            cfg = self._config(phase, name, parts, first)
        except ConfigError as error:
            raise ConfigError(f"{phase} '{name}': {error}") from error
        resources: Resources = getattr(self.sweep.resources, phase)
        return Trial(phase, name, model, point, None if first is None else first.name, cfg, resources)

    def _first(self, phase: Phase, init: Any, seed: int | None) -> Trial | None:
        """The pretraining that a trial with this `init` starts from."""
        known = self.pretrainings if phase == "finetune" else {}
        if init is not None and (init, seed) not in known:
            names = ", ".join(dict.fromkeys(name for name, _ in known)) or "none"
            raise ConfigError(f"key 'init' is {init!r}; name one of the study's pretrainings ({names})")
        return None if init is None else known[init, seed]

    def _config(self, phase: Phase, name: str, parts: Sequence[Mapping[str, Any]], first: Trial | None) -> RunConfig:
        """The config of a trial, for the place that it runs in: absolute paths, its CPUs, the study's wandb group."""
        base = _last(parts, "base")
        parts = [{key: value for key, value in keys.items() if key not in ("base", "init")} for keys in parts]
        below = [] if base is None else config.layers(config.find(str(base), self.beside))
        start = [] if first is None else [{"model": {"init_from": first.config.out}}]
        out = Path(os.path.abspath(self.sweep.out))
        cfg = run_config.build([*below, *parts, *start, {"out": str(out / phase / name)}], self.imports)
        if cfg.task != _TASKS[phase]:
            raise ConfigError(f"key 'task' is {cfg.task!r}; set {_TASKS[phase]}, or move it to the other phase")
        resources: Resources = getattr(self.sweep.resources, phase)
        accumulation_steps(cfg.engine, resources.ranks, pairs=cfg.data.augment.cutmix > 0)
        cfg = _absolute(cfg)
        if first is not None:
            source = f"pretraining '{first.name}'"
            check_encoder(first.config.model, first.config.data, cfg, source)
            for text in odd_inputs(first.config.data, cfg.data, source):
                warnings.warn(f"{phase} '{name}': {text}", stacklevel=2)
        threads = cfg.engine.threads or max(1, resources.cpus // resources.ranks)
        return dataclasses.replace(
            cfg,
            engine=dataclasses.replace(cfg.engine, threads=threads),
            tracking=dataclasses.replace(cfg.tracking, group=cfg.tracking.group or out.name),
        )


def _last(parts: Sequence[Mapping[str, Any]], key: str) -> Any:
    """The value that the last of the parts with a key gives it; None where no part has it."""
    return next((keys[key] for keys in reversed(parts) if key in keys), None)


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
    model = dataclasses.replace(cfg.model, init_from=path(cfg.model.init_from))
    return dataclasses.replace(cfg, data=data, model=model, imports=absolute(cfg.imports))


def changes(before: RunConfig, now: RunConfig) -> list[tuple[str, Any, Any]]:
    """(dotted key, value before, value now) of the keys that change what is learnt."""
    return [change for change in differences(before, now) if not no_effect(change[0])]


def identity(cfg: RunConfig) -> str:
    """A text that is equal for configs that learn the same."""
    kept = {key: value for key, value in _leaves(config.to_dict(cfg)) if not no_effect(key)}
    return json.dumps(kept, sort_keys=True)
