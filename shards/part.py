"""A scene to its part: a tar of its tiles, and facts about them beside it, written whole or not at all."""

from __future__ import annotations

import json
import tarfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from arcticseg.data import sample
from arcticseg.data.manifest import SampleEntry
from arcticseg.data.tile import Tile, cut
from arcticseg.errors import ConfigError, SceneError
from arcticseg.files import atomic_path, write_text
from arcticseg.ice import layers as scene_layers
from arcticseg.ice import threads
from arcticseg.ice.layers import LayerConfig
from arcticseg.ice.scenes.open import open_scene
from arcticseg.ice.tiling import windows
from shards import stats

END_OF_TAR = bytes(1024)


@dataclass(frozen=True)
class BuildConfig:
    """How scenes become shards.

    Attributes:
        tile: edge of a tile in pixels at its factor.
        factors: downsampling factors of 40 m.
        overlap: pixels that neighbouring tiles share.
        min_valid: least share of pixels with SAR data of a tile that is kept.
        shard_bytes: a shard is closed once it has this size.
        seed: of the order of samples in shards.
        layers: averaging and chart rules.
    """

    tile: int = 384
    factors: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8, 9, 10)
    overlap: int = 0
    min_valid: float = 0.25
    shard_bytes: int = 384 << 20
    seed: int = 0
    layers: LayerConfig = field(default_factory=LayerConfig)

    def check(self) -> None:
        """Raise ConfigError, naming key, value and remedy, where the values cannot work."""
        for key, good, remedy in (
            ("tile", self.tile >= 16, "set at least 16"),
            ("factors", bool(self.factors) and min(self.factors) >= 1, "set factors of 1 or more"),
            ("overlap", 0 <= self.overlap < self.tile, f"set 0 or more and less than the tile ({self.tile})"),
            ("min_valid", 0 <= self.min_valid <= 1, "set a share in [0, 1]"),
            ("layers.min_valid", 0 <= self.layers.min_valid <= 1, "set a share in [0, 1]"),
            ("shard_bytes", self.shard_bytes > 0, "set a positive number of bytes"),
        ):
            if not good:
                raise ConfigError(f"key '{key}' is {attrgetter(key)(self)!r}; {remedy}")


def cut_tiles(layers: scene_layers.Layers, config: BuildConfig) -> Iterator[Tile]:
    """The tiles of a scene at one factor that hold enough SAR data."""
    for window in windows(layers.shape, config.tile, config.overlap):
        tile = _cut(layers, window, config)
        if tile is not None:
            yield tile


def _cut(layers: scene_layers.Layers, window: tuple[int, int], config: BuildConfig) -> Tile | None:
    """The tile at (row, column); None where it holds too little SAR data."""
    row, col = window
    tile = cut(layers, row, col, config.tile)
    # A tile larger than its scene is judged by the scene's own pixels.
    inside = min(config.tile, layers.shape[0] - row) * min(config.tile, layers.shape[1] - col)
    share = np.count_nonzero(tile.valid) / inside
    return tile if share >= config.min_valid and share > 0 else None


def build_part(scene_path: Path, part: Path, config: BuildConfig, n_threads: int | None = None) -> list[str]:
    """Write the tiles of a scene to `part` (a tar) and facts about them beside it; return the warnings given.

    Args:
        n_threads: how many threads may work on it; None: one for each core. The bytes do not depend on it.

    Raises:
        SceneError: the scene cannot be read, or gives no tile.
        OutputError: the part cannot be written.
    """
    tallies = stats.SceneTallies(str(scene_path))
    entries: list[SampleEntry] = []
    with (
        warnings.catch_warnings(record=True, action="always") as caught,
        open_scene(scene_path, n_threads=n_threads) as scene,
        atomic_path(part) as temporary,
    ):
        facts: dict[str, Any] = {
            "scene": scene.name,
            "simulated": scene.simulated,
            "ice_service": scene.ice_service,
            "time": None if scene.time is None else scene.time.isoformat(),
            "satellite": scene.satellite,
            "orbit": scene.orbit,
            "denoising": scene.denoising,
            "has_chart": scene.has_chart,
            "shape": list(scene.shape),
        }
        with open(temporary, "wb") as file:
            for layers in scene_layers.read_layers(scene, sorted(set(config.factors)), config.layers):
                tallies.add(layers)
                for entry, data in samples(layers, config, scene.threads):
                    entries.append(replace(entry, offset=file.tell()))
                    file.write(data)
            file.write(END_OF_TAR)
        if not entries:
            raise SceneError(
                f"{scene_path}: no tile of {config.tile} pixels has {config.min_valid:.0%} of valid pixels; "
                "leave it out or lower min_valid"
            )
    facts |= {"tiles": {str(factor): n for factor, n in Counter(entry.factor for entry in entries).items()}}
    facts |= {"statistics": tallies.to_dict(), "notes": list(scene.notes)}
    # The facts do not depend on where the scenes lie.
    texts = [str(item.message).replace(str(scene_path), scene_path.name) for item in caught]
    facts |= {"warnings": texts, "samples": [asdict(entry) for entry in entries]}
    write_text(part.with_suffix(".json"), json.dumps(facts))
    return facts["warnings"]


def samples(
    layers: scene_layers.Layers, config: BuildConfig, n_threads: int = 1
) -> Iterator[tuple[SampleEntry, bytes]]:
    """Each sample of a scene at one factor as it stands in a tar, and its entry for an index, without the offset."""

    def made(window: tuple[int, int]) -> tuple[SampleEntry, bytes] | None:
        tile = _cut(layers, window, config)
        return None if tile is None else _sample(tile)

    places = windows(layers.shape, config.tile, config.overlap)
    yield from (pair for pair in threads.in_order(made, places, n_threads) if pair is not None)


def _sample(tile: Tile) -> tuple[SampleEntry, bytes]:
    members = sample.encode(tile)
    data, core = tar_range(tile.key, members)
    counts = json.loads(members["json"])["counts"]
    entry = SampleEntry(
        key=tile.key,
        scene=tile.scene,
        factor=tile.factor,
        offset=0,
        size=len(data),
        xxh3=xxhash.xxh3_64_hexdigest(data),
        core=core,
        core_xxh3=xxhash.xxh3_64_hexdigest(memoryview(data)[core:]),
        labelled=bool(counts),
        counts=counts,
    )
    return entry, data


def tar_range(key: str, members: Mapping[str, bytes]) -> tuple[bytes, int]:
    """A sample's range of a shard, and where in it its core begins.

    The bytes are those of `webdataset.TarWriter(mtime=0)`, which sorts members by name. Written here, since importing
    webdataset (and with it torch) would cost each worker seconds and memory.
    """
    blocks = []
    core = size = 0
    for name, content in sorted(members.items()):
        if name == sample.CORE:
            core = size
        header = tarfile.TarInfo(f"{key}.{name}")
        header.size, header.mode, header.uname, header.gname = len(content), 0o444, "bigdata", "bigdata"
        block = [header.tobuf(tarfile.USTAR_FORMAT), content, bytes(-len(content) % tarfile.BLOCKSIZE)]
        size += sum(map(len, block))
        blocks += block
    return b"".join(blocks), core
