import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset
import xxhash

from arcticseg.data import sample
from arcticseg.data.tile import decode_sar
from arcticseg.ice.layers import LayerConfig, read_layers
from arcticseg.ice.scenes.open import open_scene
from shards.part import BuildConfig, build_part, cut_tiles, samples, tar_range
from tests import scenes

CONFIG = BuildConfig(tile=64, factors=(2, 3))


@pytest.fixture(scope="module")
def scene_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes.write_raw(tmp_path_factory.mktemp("scene") / f"{scenes.RAW_NAME}.nc")


def test_ranges_are_what_webdataset_writes(scene_file: Path) -> None:
    with open_scene(scene_file) as scene:
        (layers,) = read_layers(scene, [3])
    expected, ranges = io.BytesIO(), b""
    with webdataset.TarWriter(expected, encoder=False, mtime=0) as writer:
        for layer in (layers, replace(layers, chart=None)):
            for tile in cut_tiles(layer, CONFIG):
                members = sample.encode(tile)
                writer.write({"__key__": tile.key, **members})
                data, core = tar_range(tile.key, members)
                assert data[core:].startswith(f"{tile.key}.{sample.CORE}".encode())
                ranges += data
    tar = expected.getvalue()
    assert len(ranges) > 100_000
    assert tar.startswith(ranges)
    assert not any(tar[len(ranges) :])


def test_entries_describe_their_samples(scene_file: Path) -> None:
    with open_scene(scene_file) as scene:
        (layers,) = read_layers(scene, [3])
    tiles = list(cut_tiles(layers, CONFIG))
    pairs = list(samples(layers, CONFIG, n_threads=3))
    assert [entry.key for entry, _ in pairs] == [tile.key for tile in tiles]
    for (entry, data), tile in zip(pairs, tiles, strict=True):
        assert (entry.scene, entry.factor, entry.size) == (scenes.RAW_NAME, 3, len(data))
        assert entry.xxh3 == xxhash.xxh3_64_hexdigest(data)
        assert entry.core_xxh3 == xxhash.xxh3_64_hexdigest(data[entry.core :])
        assert entry.counts == tile.class_counts()


def test_threads_change_no_byte(scene_file: Path, tmp_path: Path) -> None:
    for n_threads in (1, 4):
        build_part(scene_file, tmp_path / f"{n_threads}.tar", CONFIG, n_threads)
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "4.tar").read_bytes()
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "4.json").read_bytes()
    entries = json.loads((tmp_path / "4.json").read_text())["samples"]
    data = (tmp_path / "4.tar").read_bytes()
    for entry in entries:
        piece = data[entry["offset"] : entry["offset"] + entry["size"]]
        assert xxhash.xxh3_64_hexdigest(piece) == entry["xxh3"]


@pytest.mark.parametrize("average", ["linear", "db"])
def test_stored_backscatter_is_the_exact_average(tmp_path: Path, average: str) -> None:
    """From the file to the decoded tile, -60 to +40 dB and beyond, zero power and missing pixels included."""
    variables = scenes.raw(chart=False)
    random = np.random.default_rng(1)
    shape = variables["nersc_sar_primary"][1].shape
    decibels = np.linspace(-66, 46, shape[0])[:, None] + random.normal(0, 3, shape)
    decibels[random.random(shape) < 0.05] = -np.inf
    decibels[:60, :60] = -np.inf
    decibels[random.random(shape) < 0.2] = np.nan
    decibels[:, 500:] = np.nan
    variables["nersc_sar_primary"] = (scenes.SAR_DIMS, decibels.astype(np.float32))
    path = scenes.write(tmp_path / f"{scenes.RAW_NAME}.nc", variables)
    config = BuildConfig(tile=64, min_valid=0, factors=(2, 3, 4), layers=LayerConfig(sar_average=average))
    exact = variables["nersc_sar_primary"][1].astype(np.float64)
    seen = 0
    with open_scene(path) as scene:
        for layers in read_layers(scene, config.factors, config.layers):
            k = layers.factor
            for tile in cut_tiles(layers, config):
                stored = decode_sar(sample.decode(tile.key, sample.encode(tile)).hh)
                for i, j in random.integers(0, 64, (40, 2)):
                    row, column = (tile.row + i) * k, (tile.col + j) * k
                    block = exact[row : row + k, column : column + k].ravel().tolist()
                    known = [value for value in block if not math.isnan(value)]
                    if average == "db":
                        known = [value for value in known if not math.isinf(value)]
                    if 2 * len(known) < k * k:
                        assert math.isnan(stored[i, j])
                        continue
                    if average == "db":
                        mean = math.fsum(known) / len(known)
                    else:
                        power = math.fsum(10 ** (value / 10) for value in known) / len(known)
                        mean = 10 * math.log10(power) if power else -math.inf
                    assert stored[i, j] == pytest.approx(min(max(mean, -60), 40), abs=0.026)
                    seen += 1
    assert seen > 1000
