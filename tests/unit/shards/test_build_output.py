"""What a build writes: shards, indices, manifest, and which tiles."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
import xxhash

from arcticseg.data import sample
from arcticseg.data.manifest import read_index, read_manifest
from arcticseg.data.tile import encode_sar
from arcticseg.errors import SceneError
from arcticseg.ice.channels import CHANNELS, COARSE, SAR
from arcticseg.ice.layers import read_layers
from arcticseg.ice.scenes.open import open_scene
from shards.part import BuildConfig, build_part, cut_tiles
from tests import scenes
from tests.archive import CONFIG, NAMES


def test_the_output_is_whole(built: Path) -> None:
    manifest = read_manifest(built)
    expected = {"manifest.json"}
    for shards in manifest.splits.values():
        expected |= {shard.name for shard in shards} | {shard.name.replace(".tar", ".json") for shard in shards}
    assert {path.name for path in built.iterdir()} == expected
    assert len(manifest.splits["train"]) > 2
    assert set(manifest.splits) == {"train", "val", "test"}
    assert (manifest.tile, manifest.factors, manifest.simulated) == (32, (2, 4), False)


def test_the_index_says_where_each_sample_lies(built: Path) -> None:
    manifest = read_manifest(built)
    keys = []
    for shards in manifest.splits.values():
        for shard in shards:
            data = (built / shard.name).read_bytes()
            assert (shard.bytes, shard.xxh3) == (len(data), xxhash.xxh3_64_hexdigest(data))
            entries = read_index(built / shard.name)
            assert len(entries) == shard.samples
            with tarfile.open(built / shard.name) as tar:
                in_tar = [member.name for member in tar.getmembers()]
            for entry in entries:
                piece = data[entry.offset : entry.offset + entry.size]
                assert xxhash.xxh3_64_hexdigest(piece) == entry.xxh3
                key, members = sample.split_members(piece)
                assert key == entry.key
                assert [f"{key}.{name}" for name in members] == [name for name in in_tar if name.startswith(key)]
                tile = sample.decode(key, members)
                assert (tile.scene, tile.factor) == (entry.scene, entry.factor)
                assert tile.class_counts() == entry.counts
                assert entry.labelled == (tile.lab is not None)
                keys.append(key)
            # A plain tar: samples one after another, then the end mark.
            assert entries[0].offset == 0
            assert data.endswith(bytes(1024))
            assert entries[-1].offset + entries[-1].size == len(data) - 1024
    assert len(set(keys)) == len(keys)


def test_samples_are_the_tiles_of_the_scenes(built: Path, splits: dict[str, list[Path]]) -> None:
    expected = {}
    for path in splits["train"]:
        with open_scene(path) as scene:
            for layers in read_layers(scene, (2, 4)):
                expected |= {tile.key: sample.encode(tile) for tile in cut_tiles(layers, CONFIG)}
    members_of = {}
    for shard in read_manifest(built).splits["train"]:
        data = (built / shard.name).read_bytes()
        for entry in read_index(built / shard.name):
            key, members = sample.split_members(data[entry.offset : entry.offset + entry.size])
            members_of[key] = members
    assert members_of == expected
    assert list(members_of) != sorted(members_of), "samples stand in the order of the scenes"


def test_stock_webdataset_reads_every_sample_and_member(built: Path) -> None:
    manifest = read_manifest(built)
    for shards in manifest.splits.values():
        urls = [str(built / shard.name) for shard in shards]
        seen = {item["__key__"]: item for item in webdataset.WebDataset(urls, shardshuffle=False)}
        expected = {entry.key: entry for url in urls for entry in read_index(Path(url))}
        assert set(seen) == set(expected)
        for key, entry in expected.items():
            names = {"aux.b2", "dist.zst", "geo.bin", "hh.b2", "hv.b2", "json"}
            names |= {"lab.zst", "aux_poly.zst"} if entry.labelled else set()
            assert {name for name in seen[key] if not name.startswith("__")} == names


def test_no_scene_or_pass_stands_in_two_splits(built: Path) -> None:
    manifest = read_manifest(built)
    scenes_of = {
        split: {entry.scene for shard in shards for entry in read_index(built / shard.name)}
        for split, shards in manifest.splits.items()
    }
    assert scenes_of == {"train": {NAMES[0], NAMES[1], NAMES[4]}, "val": {NAMES[2]}, "test": {NAMES[3]}}
    assert {name: facts["split"] for name, facts in manifest.scenes.items()} == {
        name: split for split, names in scenes_of.items() for name in names
    }


def test_the_manifest_describes_the_scenes(built: Path) -> None:
    manifest = read_manifest(built)
    entries = [e for shards in manifest.splits.values() for shard in shards for e in read_index(built / shard.name)]
    for i, name in enumerate(NAMES):
        facts = manifest.scenes[name]
        own = [entry for entry in entries if entry.scene == name]
        assert facts["has_chart"] == (i < 4)
        assert facts["shape"] == [300, 350 + 10 * i]
        assert facts["ice_service"] == ("dmi" if i in (2, 3) else "cis")
        assert facts["tiles"] == {str(k): sum(entry.factor == k for entry in own) for k in (2, 4)}
        assert facts["warnings"] == []
        if i < 4:
            for k in (2, 4):
                of_factor = [entry.counts["SOD"] for entry in own if entry.factor == k]
                assert facts["counts"][str(k)]["SOD"] == np.sum(of_factor, axis=0).tolist()
        else:
            assert facts["counts"] == {}


def test_statistics_are_over_all_valid_pixels_of_training_scenes(built: Path, splits: dict[str, list[Path]]) -> None:
    values: dict[str, list[np.ndarray]] = {name: [] for name in CHANNELS}
    for path in splits["train"]:
        with open_scene(path) as scene:
            layers = next(iter(read_layers(scene, [2])))
            for name, polarisation in SAR.items():
                codes = encode_sar(layers.sar[name]).astype(float)
                values[polarisation].append(np.where(codes > 0, -60 + 0.05 * (codes - 1), np.nan))
            values["distance_map"].append(np.where(layers.distance == 255, np.nan, layers.distance))
            for name in COARSE:
                coarse = scene.coarse(name)
                assert coarse is not None
                values[name].append(coarse)
            values["sar_incidenceangle"].append(scene.geo.incidence)
            values["sar_grid_latitude"].append(scene.geo.latitude)
            values["sar_grid_longitude"].append(scene.geo.longitude)
            assert scene.time is not None
            values["month"].append(np.array([scene.time.month]))
            values["day"].append(np.array([int(scene.time.strftime("%j"))]))
    statistics = read_manifest(built).statistics
    assert set(statistics) == set(CHANNELS)
    for name, arrays in values.items():
        together = np.concatenate([array.ravel() for array in arrays]).astype(np.float64)
        together = together[np.isfinite(together)]
        assert statistics[name]["count"] == together.size
        assert statistics[name]["mean"] == pytest.approx(together.mean(), rel=1e-9, abs=1e-12)
        assert statistics[name]["std"] == pytest.approx(together.std(), rel=1e-9, abs=1e-12)
    assert list(statistics["distance_map"]["factors"]) == ["2", "4"]


def test_tiles_with_too_little_data_are_left_out(tmp_path: Path) -> None:
    variables = scenes.raw(300, 350)
    for name in ("nersc_sar_primary", "nersc_sar_secondary"):
        variables[name][1][:, 128:] = np.nan
        variables[name][1][:, :128] = -15
    path = scenes.write(tmp_path / "a.nc", variables)
    with open_scene(path) as scene:
        (layers,) = read_layers(scene, [2])
        kept = {
            share: {tile.col for tile in cut_tiles(layers, BuildConfig(tile=32, factors=(2,), min_valid=share))}
            for share in (0.0, 0.5, 1.0)
        }
        # Columns 0 and 32 are whole; no other tile has a pixel.
        assert kept == {0.0: {0, 32}, 0.5: {0, 32}, 1.0: {0, 32}}
        # A tile larger than the scene is judged by the scene's own pixels.
        (large,) = cut_tiles(layers, BuildConfig(tile=512, factors=(2,), min_valid=0.3))
        assert large.hh.shape == (512, 512)
        assert not list(cut_tiles(layers, BuildConfig(tile=512, factors=(2,), min_valid=0.4)))
    with pytest.raises(SceneError, match=rf"^{path}: .*512.*40%.*min_valid"):
        build_part(path, tmp_path / "part.tar", BuildConfig(tile=512, factors=(2,), min_valid=0.4))
    assert not (tmp_path / "part.tar").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a.nc"]


def test_overlapping_tiles(archive: list[Path]) -> None:
    with open_scene(archive[0]) as scene:
        (layers,) = read_layers(scene, [2])
    plain = {(tile.row, tile.col) for tile in cut_tiles(layers, BuildConfig(tile=50, min_valid=0))}
    assert plain == {(row, col) for row in (0, 50, 100) for col in (0, 50, 100, 125)}
    overlapping = {(tile.row, tile.col) for tile in cut_tiles(layers, BuildConfig(tile=50, overlap=25, min_valid=0))}
    assert overlapping == {(row, col) for row in range(0, 125, 25) for col in range(0, 150, 25)}


def test_large_factors_are_told_apart(tmp_path: Path) -> None:
    path = scenes.write_raw(tmp_path / "a.nc", lines=500, samples=500, chart=False)
    build_part(path, tmp_path / "part.tar", BuildConfig(tile=16, factors=(100,)))
    facts = json.loads((tmp_path / "part.json").read_text())
    assert {entry["factor"] for entry in facts["samples"]} == {100}
