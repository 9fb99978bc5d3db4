"""Sets of shards, and which of their samples a run uses."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from arcticseg.data import manifest as manifests
from arcticseg.data import schema
from arcticseg.data.manifest import Manifest, SampleEntry, ShardEntry
from arcticseg.data.source import Folder, Patience, Source, is_remote, open_source
from arcticseg.documents import DocumentError, each, parse_json, read_text
from arcticseg.errors import ConfigError, ShardError
from arcticseg.ice.sigrid import CHARTS, N_CLASSES
from arcticseg.shown import brief
from arcticseg.system import why_unread

_INDICES_AT_A_TIME = 8
# Bytes of a list of scenes that are read: those of 100,000 names.
_LIST_BYTES = 16 << 20


@dataclass(frozen=True)
class ShardSet:
    """A folder of shards, local or on a server, and its manifest."""

    source: Source
    manifest: Manifest

    def index(self, shard: ShardEntry) -> list[SampleEntry]:
        """The samples of a shard.

        Raises:
            ShardError: the index is missing or damaged, or belongs to another shard.
        """
        name = manifests.index_path(Path(shard.name)).name
        where = f"{self.source.address}/{name}"
        data = self.source.read(name, schema.index_limit(shard.samples))
        entries = manifests.parse_index(data, shard.name, where, shard)
        scenes, factors = {entry.scene for entry in entries}, {entry.factor for entry in entries}
        for surplus in (scenes - self.manifest.scenes.keys(), factors - set(self.manifest.factors)):
            if surplus:
                raise ShardError(
                    f"{where}: lists {brief(min(surplus))}, which the manifest does not; build the shards again"
                )
        return entries


def open_set(place: str, patience: Patience = Patience()) -> ShardSet:
    """The shards of a local folder or at an address.

    Raises:
        ShardError: the manifest is missing or damaged.
        ConfigError: the address is of a kind that is not supported.
    """
    source = open_source(place, patience)
    if not is_remote(place):
        return ShardSet(source, manifests.read_manifest(Path(place)))
    where = f"{source.address}/{manifests.MANIFEST}"
    return ShardSet(source, manifests.parse_manifest(source.read(manifests.MANIFEST, schema.MANIFEST_BYTES), where))


@dataclass(frozen=True, eq=False)
class Selection:
    """The samples that a run uses, in the order of the sets and their shards, as columns of N values.

    Attributes:
        sources: of each set.
        shards: (index of the set, shard) of each shard that is used.
        scenes: names of the scenes that are used.
        shard, scene: int32 [N], positions in `shards` and `scenes`.
        factor: int32 [N].
        offset, size: int64 [N], the sample's range in its shard.
        core: int64 [N], where in the range SAR, metadata and labels begin.
        xxh3, core_xxh3, key: uint64 [N], xxh3-64 of the range, of its core, and of the sample's key.
        fingerprint: changes when any selected sample does.
        counts: chart -> pixels of each class and, last, masked ones, over all samples; None: not added up.
    """

    sources: tuple[Source, ...]
    shards: tuple[tuple[int, ShardEntry], ...]
    scenes: tuple[str, ...]
    shard: NDArray[np.int32]
    scene: NDArray[np.int32]
    factor: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    core: NDArray[np.int64]
    xxh3: NDArray[np.uint64]
    core_xxh3: NDArray[np.uint64]
    key: NDArray[np.uint64]
    fingerprint: str
    counts: Mapping[str, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return len(self.shard)

    def address(self, shard: int) -> str:
        """Where a shard lies."""
        index, entry = self.shards[shard]
        return f"{self.sources[index].address}/{entry.name}"

    def sampled(self, share: float, seed: int = 0) -> Selection:
        """A share of the samples of each scene and factor, at least one, drawn by the seed.

        A smaller share is a subset of a larger one; a sample's draw depends on its key alone, so that all runs on the
        same shards have the same.
        """
        if share >= 1:
            return self
        order = np.lexsort((self._draws(seed), self.factor, self.scene))
        strata = np.stack([self.scene, self.factor])[:, order]
        starts = np.flatnonzero(np.diff(strata, prepend=-1).any(axis=0))
        sizes = np.diff(starts, append=len(self))
        wanted = np.ceil(share * sizes - 1e-9).clip(1)
        place = np.arange(len(self)) - np.repeat(starts, sizes)
        kept = np.sort(order[place < np.repeat(wanted, sizes)])
        return self._kept(kept, f"{share} {seed}")

    def few(self, count: int, seed: int = 0) -> Selection:
        """At most `count` samples: one of each scene, then another of each, and so on, drawn by the seed.

        Fewer are a subset of more; a sample's draw depends on its key alone.
        """
        if count >= len(self):
            return self
        draws = self._draws(seed)
        order = np.lexsort((draws, self.scene))
        starts = np.flatnonzero(np.diff(self.scene[order], prepend=-1))
        turn = np.empty(len(self), np.int64)
        turn[order] = np.arange(len(self)) - np.repeat(starts, np.diff(starts, append=len(self)))
        return self._kept(np.sort(np.lexsort((draws, turn))[:count]), f"few {count} {seed}")

    def _draws(self, seed: int) -> NDArray[np.uint64]:
        return np.array([xxhash.xxh3_64_intdigest(f"{seed} {key}".encode()) for key in self.key.tolist()], np.uint64)

    def _kept(self, numbers: NDArray[np.int64], how: str) -> Selection:
        """Some of the samples; `how` they are chosen goes into the fingerprint."""
        columns = ("shard", "scene", "factor", "offset", "size", "core", "xxh3", "core_xxh3", "key")
        rows: dict[str, Any] = {name: getattr(self, name)[numbers] for name in columns}
        return replace(self, fingerprint=f"{self.fingerprint} {how}", counts=None, **rows)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Numbers of samples, scenes and shards, and of samples by factor; a checkpoint keeps them for messages."""
        factors = Counter(self.factor.tolist())
        return {
            "samples": len(self),
            "scenes": len(self.scenes),
            "shards": len(self.shards),
            "factors": {str(factor): factors[factor] for factor in sorted(factors)},
        }


def nested_scenes(names: Sequence[str], fraction: float, seed: int = 0) -> list[str]:
    """A share of the scenes, at least one, drawn by the seed; a smaller share is a subset of a larger share."""
    drawn = sorted(names, key=lambda name: xxhash.xxh3_64_intdigest(f"{seed} {name}".encode()))
    return sorted(drawn[: max(1, math.ceil(fraction * len(drawn) - 1e-9))])


def read_scene_list(path: Path) -> list[str]:
    """Scene names of a text file, one a line (what follows `#` is a comment), or of a JSON file, an array of names.

    Raises:
        ConfigError: there is no such file, it is empty or not a list of names.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such list of scenes; give a text file of scene names")
    is_json = path.suffix == ".json"
    try:
        text = read_text(path, _LIST_BYTES)
        lines = parse_json(text, 1) if is_json else [line.partition("#")[0].strip() for line in text.splitlines()]
        each(schema.SCENE_NAME)([line for line in lines if line != ""] if isinstance(lines, list) else lines)
    except OSError as error:
        raise ConfigError(f"{path}: {why_unread(error, 'give a text file of scene names')}") from error
    except DocumentError as error:
        kind = "JSON array" if is_json else "text file"
        raise ConfigError(f"{path}: is not a list of scenes ({error}); give a {kind} of scene names") from error
    names = [name.strip().removesuffix(".nc") for name in lines if name.strip()]
    if not names:
        raise ConfigError(f"{path}: the file is empty; list a scene on each line")
    return names


def check_listed(sets: Sequence[ShardSet], scenes: Sequence[str]) -> None:
    """See that shards hold the scenes of a list.

    Raises:
        ConfigError: naming one that they do not.
    """
    unknown = sorted(set(scenes) - {name for part in sets for name in part.manifest.scenes})
    if unknown:
        where = ", ".join(part.source.address for part in sets)
        raise ConfigError(f"key 'data.scenes' lists {unknown[0]}, which {where} does not hold; correct the list")


def select(folder: Path, manifest: Manifest, split: str, *args: Any, **options: Any) -> Selection:
    """`select_from` a single local folder."""
    return select_from([ShardSet(Folder(folder), manifest)], split, *args, **options)


def select_from(
    sets: Sequence[ShardSet],
    split: str,
    factors: Sequence[int] = (),
    scenes: Sequence[str] | None = None,
    fraction: float = 1.0,
    labelled: bool = False,
) -> Selection:
    """The samples of a split that a run uses.

    Args:
        factors: downsampling factors; empty: all.
        scenes: names to use; None: all.
        fraction: share of these scenes.
        labelled: only samples with a chart.

    Raises:
        ConfigError: the shards hold no such sample, factor, scene or split.
        ShardError: an index cannot be read.
    """
    where = ", ".join(shard_set.source.address for shard_set in sets)
    held = sorted({factor for shard_set in sets for factor in shard_set.manifest.factors})
    lacking = sorted(set(factors) - set(held))
    if lacking:
        raise ConfigError(f"key 'data.factors' has {lacking}; {where} holds {held}; set some of these")
    splits = {name: None for shard_set in sets for name in shard_set.manifest.splits}
    if split not in splits:
        raise ConfigError(f"{where}: holds no split '{split}', only {', '.join(splits)}; build shards with this split")
    shards = [
        (index, shard) for index, shard_set in enumerate(sets) for shard in shard_set.manifest.splits.get(split, ())
    ]

    def columns(number: int) -> _Columns:
        index, shard = shards[number]
        entries = (
            entry
            for entry in sets[index].index(shard)
            if (not factors or entry.factor in factors) and (entry.labelled or not labelled)
        )
        return _Columns.of(number, entries)

    # The indices are many small files, perhaps of a server: several requests at a time.
    with ThreadPoolExecutor(_INDICES_AT_A_TIME) as pool:
        candidates = _Columns.join(list(pool.map(columns, range(len(shards)))))
    present = sorted(set(candidates.scene))
    if scenes is not None:
        check_listed(sets, scenes)
        present = sorted(set(present) & set(scenes))
    if not present:
        raise ConfigError(
            f"{where}: split '{split}' has no {'labelled ' if labelled else ''}sample of the scenes and factors that "
            "are set; set others, or build shards that hold them"
        )
    return candidates.chosen([shard_set.source for shard_set in sets], shards, nested_scenes(present, fraction))


@dataclass(frozen=True)
class _Columns:
    """Samples while they are selected: the columns of `Selection`, with names instead of numbers.

    An index in memory takes a hundred times the bytes.

    Attributes:
        counts: scene -> pixels of each class and masked ones, chart after chart, over its samples.
    """

    numbers: NDArray[np.int64]  # [N, 5]: shard, factor, offset, size, core
    hashes: NDArray[np.uint64]  # [N, 2]: xxh3, core_xxh3
    scene: list[str]
    key: list[str]
    counts: Mapping[str, NDArray[np.int64]]

    @staticmethod
    def of(shard: int, entries: Iterable[SampleEntry]) -> _Columns:
        kept = list(entries)
        numbers = [(shard, entry.factor, entry.offset, entry.size, entry.core) for entry in kept]
        hashes = [(int(entry.xxh3, 16), int(entry.core_xxh3, 16)) for entry in kept]
        return _Columns(
            np.array(numbers, np.int64).reshape(-1, 5),
            np.array(hashes, np.uint64).reshape(-1, 2),
            [sys.intern(entry.scene) for entry in kept],
            [entry.key for entry in kept],
            _scene_counts(kept),
        )

    @staticmethod
    def join(parts: Sequence[_Columns]) -> _Columns:
        return _Columns(
            np.concatenate([part.numbers for part in parts]),
            np.concatenate([part.hashes for part in parts]),
            [name for part in parts for name in part.scene],
            [name for part in parts for name in part.key],
            _added(pair for part in parts for pair in part.counts.items()),
        )

    def chosen(
        self, sources: Sequence[Source], shards: Sequence[tuple[int, ShardEntry]], scenes: Sequence[str]
    ) -> Selection:
        """The samples of some scenes; shards without such samples are left out."""
        position = {name: i for i, name in enumerate(scenes)}
        scene = np.array([position.get(name, -1) for name in self.scene], np.int32)
        kept = np.flatnonzero(scene >= 0)
        used, shard = np.unique(self.numbers[kept, 0], return_inverse=True)
        _, factor, offset, size, core = self.numbers[kept].T
        xxh3, core_xxh3 = self.hashes[kept].T
        keys = [self.key[i] for i in kept]
        checksums = (f"{digest:016x}" for digest in xxh3.tolist())
        return Selection(
            sources=tuple(sources),
            shards=tuple(shards[i] for i in used),
            scenes=tuple(scenes),
            shard=shard.astype(np.int32),
            scene=scene[kept],
            factor=factor.astype(np.int32),
            offset=offset.copy(),
            size=size.copy(),
            core=core.copy(),
            xxh3=xxh3.copy(),
            core_xxh3=core_xxh3.copy(),
            key=np.array([xxhash.xxh3_64_intdigest(key.encode()) for key in keys], np.uint64),
            fingerprint=manifests.fingerprint_of(zip(keys, checksums, strict=True)),
            counts=_by_chart(sum((self.counts[name] for name in scenes), np.zeros(_COUNTS, np.int64))),
        )


# Values of `SampleEntry.counts`, chart after chart.
_COUNTS = sum(N_CLASSES[chart] + 1 for chart in CHARTS)


def _scene_counts(entries: Sequence[SampleEntry]) -> dict[str, NDArray[np.int64]]:
    """Scene -> its samples' counts added up, chart after chart; a sample without a chart has none."""
    counted = [entry for entry in entries if entry.counts]
    flat = [number for entry in counted for chart in CHARTS for number in entry.counts[chart]]
    numbers = {scene: number for number, scene in enumerate(dict.fromkeys(entry.scene for entry in entries))}
    total = np.zeros((len(numbers), _COUNTS), np.int64)
    rows = np.array([numbers[entry.scene] for entry in counted], np.int64)
    np.add.at(total, rows, np.array(flat, np.int64).reshape(-1, _COUNTS))
    return dict(zip(numbers, total, strict=True))


def _added(pairs: Iterable[tuple[str, NDArray[np.int64]]]) -> dict[str, NDArray[np.int64]]:
    total: dict[str, NDArray[np.int64]] = {}
    for name, counts in pairs:
        total[name] = total[name] + counts if name in total else counts
    return total


def _by_chart(counts: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    ends = np.cumsum([N_CLASSES[chart] + 1 for chart in CHARTS])
    return dict(zip(CHARTS, np.split(counts, ends[:-1]), strict=True))
