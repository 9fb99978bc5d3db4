"""Samples from a local folder of shards: which ones, and their bytes, verified before they are decoded."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import xxhash

from arcticseg.data import manifest as manifests
from arcticseg.data import sample
from arcticseg.data.manifest import Manifest, SampleEntry
from arcticseg.errors import ConfigError, ShardError


@dataclass(frozen=True)
class Damage:
    """A sample that stayed wrong after it was fetched again."""

    number: int
    shard: str
    offset: int
    reason: str


class DamagedSample(Exception):  # noqa: N818
    """A sample's bytes are not those of the index."""

    def __init__(self, damage: Damage) -> None:
        super().__init__(damage)
        self.damage = damage


@dataclass(frozen=True)
class Selection:
    """The samples that a run uses, in the order of the shards.

    Attributes:
        folder: of the shards.
        samples: (shard file name, entry) of each sample.
        fingerprint: changes when any selected sample does.
    """

    folder: Path
    samples: tuple[tuple[str, SampleEntry], ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.samples)


def nested_scenes(names: Sequence[str], fraction: float, seed: int = 0) -> list[str]:
    """A share of the scenes, at least one, drawn by seed; a smaller share is a subset of a larger one."""
    drawn = sorted(names, key=lambda name: xxhash.xxh3_64_intdigest(f"{seed} {name}".encode()))
    return sorted(drawn[: max(1, math.ceil(fraction * len(drawn) - 1e-9))])


def read_scene_list(path: Path) -> list[str]:
    """Scene names of a text file, one a line.

    Raises:
        ConfigError: no such file, or it is empty.
    """
    if not path.is_file():
        raise ConfigError(f"key 'data.scenes' is '{path}'; no such file; give a text file of scene names")
    names = [line.strip().removesuffix(".nc") for line in path.read_text().splitlines() if line.strip()]
    if not names:
        raise ConfigError(f"key 'data.scenes' is '{path}'; the file is empty; list one scene a line")
    return names


def select(
    folder: Path,
    found: Manifest,
    split: str,
    factors: Sequence[int] = (),
    scenes: Sequence[str] | None = None,
    fraction: float = 1.0,
    labelled: bool = False,
) -> Selection:
    """The samples of a split that a run asks for.

    Args:
        factors: downsampling factors; empty: all.
        scenes: names to use; None: all.
        fraction: share of these scenes.
        labelled: only samples with a chart.

    Raises:
        ConfigError: the shards hold none such.
        ShardError: an index cannot be read.
    """
    lacking = sorted(set(factors) - set(found.factors))
    if lacking:
        raise ConfigError(
            f"key 'data.factors' asks for {lacking}; {folder} holds {list(found.factors)}; set some of these"
        )
    if split not in found.splits:
        raise ConfigError(f"{folder}: holds no split '{split}', only {', '.join(found.splits)}; build it with one")
    entries = [
        (shard.name, entry)
        for shard in found.splits[split]
        for entry in manifests.read_index(folder / shard.name)
        if (not factors or entry.factor in factors) and (entry.labelled or not labelled)
    ]
    present = sorted({entry.scene for _, entry in entries})
    if scenes is not None:
        unknown = sorted(set(scenes) - set(found.scenes))
        if unknown:
            raise ConfigError(f"key 'data.scenes' lists {unknown[0]}, which {folder} does not hold; mend the list")
        present = sorted(set(present) & set(scenes))
    if not present:
        raise ConfigError(
            f"{folder}: split '{split}' has no {'labelled ' if labelled else ''}sample of the scenes and factors asked "
            "for; set others, or build shards that hold them"
        )
    chosen = set(nested_scenes(present, fraction))
    kept = tuple((shard, entry) for shard, entry in entries if entry.scene in chosen)
    return Selection(folder, kept, manifests.fingerprint(entry for _, entry in kept))


class SampleReader:
    """Reads samples by number; keeps files open; one for each process."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self._files: dict[str, int] = {}

    def _file(self, shard: str) -> int:
        if shard not in self._files:
            path = self.selection.folder / shard
            try:
                self._files[shard] = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise ShardError(f"{path}: shard cannot be opened ({error.strerror}); restore it") from error
        return self._files[shard]

    def where(self, number: int) -> str:
        """Where a sample is, for people: shard and offset."""
        shard, entry = self.selection.samples[number]
        return f"{self.selection.folder / shard}: sample at byte {entry.offset}"

    def fetch(self, number: int) -> bytes:
        """The bytes of a sample.

        Raises:
            ShardError: the shard is missing, cut or differs from its checksum; the message names shard and offset.
        """
        shard, entry = self.selection.samples[number]
        data = os.pread(self._file(shard), entry.size, entry.offset)
        if len(data) != entry.size or xxhash.xxh3_64_hexdigest(data) != entry.xxh3:
            what = f"{len(data)} of {entry.size} bytes" if len(data) != entry.size else "checksum differs"
            raise ShardError(
                f"{self.selection.folder / shard}: sample {entry.key} at byte {entry.offset} is damaged ({what}); "
                "restore the shard; `arcticseg shards check` names all damage"
            )
        return data

    def read(self, number: int) -> sample.Tile:
        """The tile of a sample."""
        return sample.decode(*sample.split_members(self.fetch(number)))

    def __getstate__(self) -> dict[str, object]:
        # Open files do not travel to another process.
        return {"selection": self.selection, "_files": {}}

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()


ShardReader = SampleReader
