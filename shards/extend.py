"""What is left to build in a folder that holds finished shards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from arcticseg.config import to_dict
from arcticseg.data.manifest import Manifest
from arcticseg.errors import ConfigError
from arcticseg.ice.passes import known_of, passes_of
from shards.part import BuildConfig

Splits = Mapping[str, Sequence[Path]]


def differences(manifest: Manifest, config: BuildConfig) -> list[tuple[str, object, object]]:
    """(key, value of the shards, value asked for) of the options that differ."""

    def flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
        out: dict[str, object] = {}
        for key, value in values.items():
            out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        return out

    # As JSON, since the manifest's went through it.
    before, now = flat(manifest.builder.get("config", {})), flat(json.loads(json.dumps(to_dict(config))))
    return [(key, before.get(key), now.get(key)) for key in {**before, **now} if before.get(key) != now.get(key)]


def is_same(manifest: Manifest, splits: Splits, config: BuildConfig) -> bool:
    """Whether these scenes and options give the same shards."""
    asked = {path.stem: split for split, paths in splits.items() for path in paths}
    built = {name: facts["split"] for name, facts in manifest.scenes.items()}
    return not differences(manifest, config) and asked == built


def to_add(manifest: Manifest, splits: Splits, config: BuildConfig, folder: Path) -> dict[str, list[Path]]:
    """The scenes that the shards do not hold yet, by split; those that could not be read before are tried again.

    Raises:
        ConfigError: options differ, or a scene or a pass would be in two splits.
    """
    for key, before, now in differences(manifest, config):
        raise ConfigError(
            f"key '{key}' is {now!r}; the shards in {folder} have {before!r}: set that, or another folder"
        )
    asked = {path.stem: split for split, paths in splits.items() for path in paths}
    has = {name: str(facts["split"]) for name, facts in manifest.scenes.items()}
    passes = passes_of({**has, **asked}, known_of(manifest.scenes))
    split_of = {passes[name]: split for name, split in has.items()}
    for name, split in asked.items():
        held = has.get(name, split_of.get(passes[name], split))
        if held != split:
            raise ConfigError(
                f"scene {name} should go to split {split}, but {folder} has {'it' if name in has else 'its pass'} in "
                f"{held}; put it there, for scenes and passes cannot change their split"
            )
    return {
        split: [path for path in paths if "error" in manifest.scenes.get(path.stem, {"error": "not there"})]
        for split, paths in splits.items()
    }


def default_splits(manifest: Manifest, names: Sequence[str]) -> dict[str, list[str]]:
    """Splits for scenes to add, by name: a pass stays in the split that it is in; new passes train."""
    has = {name: str(facts["split"]) for name, facts in manifest.scenes.items()}
    passes = passes_of({*has, *names}, known_of(manifest.scenes))
    split_of = {passes[name]: split for name, split in has.items()}
    out: dict[str, list[str]] = {}
    for name in names:
        out.setdefault(split_of.get(passes[name], "train"), []).append(name)
    return out
