"""One scene to one part: a tar of its tiles, and facts about them beside it, written whole or not at all."""

from __future__ import annotations

import json
import tarfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from arcticseg.data import sample
from arcticseg.data.manifest import SampleEntry
from arcticseg.errors import ConfigError, SceneError
from arcticseg.files import atomic_path, write_text
from arcticseg.ice import layers as scene_layers
from arcticseg.ice.layers import LayerConfig
from arcticseg.ice.scene import open_scene
from arcticseg.ice.tiling import windows
from shards import stats


@dataclass(frozen=True)
class BuildConfig:
    """How scenes become shards.

    Attributes:
        tile: edge of a tile in pixels at its factor.
        factors: downsampling factors of 40 m.
        overlap: pixels that neighbouring tiles share.
        min_valid: share of pixels with SAR data from which on a tile is kept.
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
            ("shard_bytes", self.shard_bytes > 0, "set a positive number of bytes"),
        ):
            if not good:
                raise ConfigError(f"key '{key}' is {getattr(self, key)!r}; {remedy}")


def cut_tiles(layers: scene_layers.Layers, config: BuildConfig) -> Iterator[sample.Tile]:
    """The tiles of one scene at one factor that hold enough SAR data."""
    for row, col in windows(layers.shape, config.tile, config.overlap):
        tile = sample.cut(layers, row, col, config.tile)
        # A tile larger than its scene is judged by the scene's own pixels.
        inside = min(config.tile, layers.shape[0] - row) * min(config.tile, layers.shape[1] - col)
        share = np.count_nonzero(tile.valid) / inside
        if share >= config.min_valid and share > 0:
            yield tile


def build_part(scene_path: Path, part: Path, config: BuildConfig) -> list[str]:
    """Write the tiles of one scene to `part` (a tar) and facts about them beside it; return the warnings given.

    Raises:
        SceneError: the scene cannot be read, or gives no tile.
        OutputError: the part cannot be written.
    """
    import webdataset  # imports torch where that is installed

    tallies = stats.SceneTallies()
    counts: dict[str, dict[str, list[int]]] = {}
    with (
        warnings.catch_warnings(record=True) as caught,
        open_scene(scene_path) as scene,
        atomic_path(part) as temporary,
    ):
        warnings.simplefilter("always")
        facts: dict[str, Any] = {
            "scene": scene.name,
            "simulated": scene.simulated,
            "ice_service": scene.ice_service,
            "time": None if scene.time is None else scene.time.isoformat(),
            "has_chart": scene.has_chart,
            "shape": list(scene.shape),
        }
        with open(temporary, "wb") as file, webdataset.TarWriter(file, encoder=False, mtime=0) as writer:
            tiles: dict[str, int] = {}
            for layers in scene_layers.read_layers(scene, sorted(set(config.factors)), config.layers):
                tallies.add(layers)
                for tile in cut_tiles(layers, config):
                    writer.write({"__key__": tile.key, **sample.encode(tile)})
                    counts[tile.key] = tile.class_counts()
                    tiles[str(layers.factor)] = tiles.get(str(layers.factor), 0) + 1
        if not tiles:
            raise SceneError(
                f"{scene_path}: no tile of {config.tile} pixels has {config.min_valid:.0%} of valid pixels; "
                "leave it out or lower min_valid"
            )
        entries = list(_index(temporary, scene.name, counts))
    facts |= {"tiles": tiles, "statistics": tallies.to_dict()}
    facts |= {"warnings": [str(item.message) for item in caught], "samples": [asdict(entry) for entry in entries]}
    write_text(part.with_suffix(".json"), json.dumps(facts))
    return facts["warnings"]


def _index(part: Path, scene: str, counts: Mapping[str, dict[str, list[int]]]) -> Iterator[SampleEntry]:
    """The samples of a tar: the range from a sample's first header to the end of its last member's last block."""
    starts: dict[str, int] = {}
    cores: dict[str, int] = {}
    ends: dict[str, int] = {}
    with tarfile.open(part) as tar:
        for member in tar:
            key, _, name = member.name.partition(".")
            starts.setdefault(key, member.offset)
            if name == sample.CORE:
                cores[key] = member.offset
            ends[key] = member.offset_data + (member.size + 511) // 512 * 512
    with open(part, "rb") as file:
        for key, start in starts.items():
            file.seek(start)
            data = file.read(ends[key] - start)
            core = cores[key] - start
            yield SampleEntry(
                key=key,
                scene=scene,
                factor=int(key.rsplit("_", 3)[1].removeprefix("k")),
                offset=start,
                size=len(data),
                xxh3=xxhash.xxh3_64_hexdigest(data),
                core=core,
                core_xxh3=xxhash.xxh3_64_hexdigest(data[core:]),
                labelled=bool(counts[key]),
                counts=counts[key],
            )
