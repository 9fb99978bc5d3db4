"""One scene to one part: a tar of its tiles, and facts about them beside it, written whole or not at all."""

from __future__ import annotations

import io
import json
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from arcticseg.data import sample
from arcticseg.data.manifest import SampleEntry
from arcticseg.errors import ConfigError, SceneError
from arcticseg.files import atomic_path, write_text
from arcticseg.ice import layers as scene_layers
from arcticseg.ice import threads
from arcticseg.ice.layers import LayerConfig
from arcticseg.ice.scene import open_scene
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
    for window in windows(layers.shape, config.tile, config.overlap):
        tile = _cut(layers, window, config)
        if tile is not None:
            yield tile


def _cut(layers: scene_layers.Layers, window: tuple[int, int], config: BuildConfig) -> sample.Tile | None:
    """The tile at (row, column); None where it holds too little SAR data."""
    row, col = window
    tile = sample.cut(layers, row, col, config.tile)
    # A tile larger than its scene is judged by the scene's own pixels.
    inside = min(config.tile, layers.shape[0] - row) * min(config.tile, layers.shape[1] - col)
    share = np.count_nonzero(tile.valid) / inside
    return tile if share >= config.min_valid and share > 0 else None


def build_part(scene_path: Path, part: Path, config: BuildConfig, n_threads: int | None = None) -> list[str]:
    """Write the tiles of one scene to `part` (a tar) and facts about them beside it; return the warnings given.

    Args:
        n_threads: how many threads may work on it; None: one for each core. The bytes do not depend on it.

    Raises:
        SceneError: the scene cannot be read, or gives no tile.
        OutputError: the part cannot be written.
    """
    import webdataset  # noqa: F401  imports torch where that is installed, with warnings that are not the scene's

    tallies = stats.SceneTallies()
    entries: list[SampleEntry] = []
    with (
        warnings.catch_warnings(record=True) as caught,
        open_scene(scene_path, n_threads=n_threads) as scene,
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
        with open(temporary, "wb") as file:
            for layers in scene_layers.read_layers(scene, sorted(set(config.factors)), config.layers):
                tallies.add(layers)
                places = windows(layers.shape, config.tile, config.overlap)
                for found in threads.in_order(partial(_sample, layers, config), places, scene.threads):
                    if found is not None:
                        entry, data = found
                        entries.append(replace(entry, offset=file.tell()))
                        file.write(data)
            file.write(END_OF_TAR)
        if not entries:
            raise SceneError(
                f"{scene_path}: no tile of {config.tile} pixels has {config.min_valid:.0%} of valid pixels; "
                "leave it out or lower min_valid"
            )
    facts |= {"tiles": {str(factor): n for factor, n in Counter(entry.factor for entry in entries).items()}}
    facts |= {"statistics": tallies.to_dict()}
    # What a part says does not depend on where the scenes lie.
    told = [str(item.message).replace(str(scene_path), scene_path.name) for item in caught]
    facts |= {"warnings": told, "samples": [asdict(entry) for entry in entries]}
    write_text(part.with_suffix(".json"), json.dumps(facts))
    return facts["warnings"]


def _sample(
    layers: scene_layers.Layers, config: BuildConfig, window: tuple[int, int]
) -> tuple[SampleEntry, bytes] | None:
    """The sample at a window, as it stands in a tar, and its entry in the index, for a tar that begins with it."""
    tile = _cut(layers, window, config)
    if tile is None:
        return None
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
        core_xxh3=xxhash.xxh3_64_hexdigest(data[core:]),
        labelled=bool(counts),
        counts=counts,
    )
    return entry, data


def tar_range(key: str, members: Mapping[str, bytes]) -> tuple[bytes, int]:
    """A sample as webdataset writes it, without the end of the tar, and where in it its core begins."""
    from webdataset import TarWriter

    file = io.BytesIO()
    with TarWriter(file, encoder=False, mtime=0) as writer:
        writer.write({"__key__": key, **members})
    # A header and the content, each filled up to whole blocks; members are sorted by name.
    sizes = {name: 512 + (len(content) + 511) // 512 * 512 for name, content in members.items()}
    core = sum(size for name, size in sizes.items() if name < sample.CORE)
    return file.getvalue()[: sum(sizes.values())], core
