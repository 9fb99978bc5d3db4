import json
import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import jobs
import numpy as np
import pytest
import webdataset
import xxhash
from archive import NAMES, InThisProcess, telling
from archive import write as write_archive

from arcticseg.data import sample
from arcticseg.data.manifest import read_index, read_manifest
from arcticseg.data.tile import encode_sar
from arcticseg.errors import ConfigError, OutputError, SceneError
from arcticseg.ice.channels import CHANNELS, COARSE, SAR
from arcticseg.ice.layers import LayerConfig, read_layers
from arcticseg.ice.scenes.open import open_scene
from shards import build as builder
from shards.build import Machine, build
from shards.part import BuildConfig, build_part, cut_tiles
from tests import scenes

CONFIG = BuildConfig(tile=32, factors=(4, 2), shard_bytes=100_000)


def quiet(text: str) -> None:
    """Report nothing."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def splits(archive: list[Path]) -> dict[str, list[Path]]:
    return {"train": [*archive[:2], archive[4]], "val": archive[2:3], "test": archive[3:4]}


@pytest.fixture(scope="module")
def built(splits: dict[str, list[Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    build(splits, out, CONFIG, report=quiet)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut scenes without starting processes, which is most of the time of a small build."""
    monkeypatch.setattr(builder, "Workers", InThisProcess)


def test_the_output_is_whole(built: Path) -> None:
    names = sorted(path.name for path in built.iterdir())
    found = read_manifest(built)
    expected = {"manifest.json"}
    for shards in found.splits.values():
        expected |= {shard.name for shard in shards} | {shard.name.replace(".tar", ".json") for shard in shards}
    assert set(names) == expected
    assert len(found.splits["train"]) > 2
    assert set(found.splits) == {"train", "val", "test"}
    assert (found.tile, found.factors, found.simulated) == (32, (2, 4), False)


def test_the_index_says_where_each_sample_lies(built: Path) -> None:
    found = read_manifest(built)
    keys = []
    for shards in found.splits.values():
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
    found = {}
    for shard in read_manifest(built).splits["train"]:
        data = (built / shard.name).read_bytes()
        for entry in read_index(built / shard.name):
            key, members = sample.split_members(data[entry.offset : entry.offset + entry.size])
            found[key] = members
    assert found == expected
    assert list(found) != sorted(found), "samples stand in the order of the scenes"


def test_stock_webdataset_reads_every_sample_and_member(built: Path) -> None:
    found = read_manifest(built)
    for shards in found.splits.values():
        urls = [str(built / shard.name) for shard in shards]
        seen = {item["__key__"]: item for item in webdataset.WebDataset(urls, shardshuffle=False)}
        expected = {entry.key: entry for url in urls for entry in read_index(Path(url))}
        assert set(seen) == set(expected)
        for key, entry in expected.items():
            names = {"aux.b2", "dist.zst", "geo.bin", "hh.b2", "hv.b2", "json"}
            names |= {"lab.zst"} if entry.labelled else set()
            assert {name for name in seen[key] if not name.startswith("__")} == names


def test_no_scene_or_pass_stands_in_two_splits(built: Path) -> None:
    found = read_manifest(built)
    scenes_of = {
        split: {entry.scene for shard in shards for entry in read_index(built / shard.name)}
        for split, shards in found.splits.items()
    }
    assert scenes_of == {"train": {NAMES[0], NAMES[1], NAMES[4]}, "val": {NAMES[2]}, "test": {NAMES[3]}}
    assert {name: facts["split"] for name, facts in found.scenes.items()} == {
        name: split for split, names in scenes_of.items() for name in names
    }


def test_the_manifest_describes_the_scenes(built: Path) -> None:
    found = read_manifest(built)
    entries = [e for shards in found.splits.values() for shard in shards for e in read_index(built / shard.name)]
    for i, name in enumerate(NAMES):
        facts = found.scenes[name]
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


def test_two_workers_write_the_same_bytes(built: Path, splits: dict[str, list[Path]], tmp_path: Path) -> None:
    build(splits, tmp_path / "out", CONFIG, Machine(workers=2), report=quiet)
    assert contents(tmp_path / "out") == contents(built)


def test_the_order_of_scenes_given_does_not_matter(
    built: Path, splits: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    turned = {split: splits[split][::-1] for split in ("test", "val", "train")}
    build(turned, tmp_path / "out", CONFIG, report=quiet)
    found, expected = contents(tmp_path / "out"), contents(built)
    assert found == expected


def test_a_seed_changes_the_order_and_nothing_else(
    built: Path, splits: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    build(splits, tmp_path, BuildConfig(tile=32, factors=(2, 4), shard_bytes=100_000, seed=1), report=quiet)

    def keys(folder: Path) -> list[tuple[str, str]]:
        shards = read_manifest(folder).splits["train"]
        return [(entry.key, entry.xxh3) for shard in shards for entry in read_index(folder / shard.name)]

    assert keys(tmp_path) != keys(built)
    assert sorted(keys(tmp_path)) == sorted(keys(built))


class Killed(BaseException):
    """Stands for what nothing can catch."""


def test_a_killed_build_goes_on_with_the_parts_that_are_whole(
    built: Path, splits: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)

    def kill_after_two(done: int, total: int) -> None:
        if done == 2:
            # A kill leaves everything as it lies; take a picture before the build can tidy up.
            part = next((tmp_path / "out" / ".parts").glob("*.tar"))
            (part.parent / f".{part.stem}.1.tmp.tar").write_bytes(b"half a part")
            (tmp_path / "out" / "train-000000.tar").write_bytes(b"half a shard")
            (tmp_path / "out" / ".train-000001.1.tmp.tar").write_bytes(b"half a shard")
            shutil.copytree(tmp_path / "out", tmp_path / "killed")
            raise Killed

    with pytest.raises(Killed):
        build(splits, tmp_path / "out", CONFIG, report=quiet, progress=telling(kill_after_two))
    seen: list[tuple[int, int]] = []
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed" / ".parts").glob("*.tar")}
    cut: list[Path] = []
    real = builder.build_part
    monkeypatch.setattr(builder, "build_part", lambda *a: (cut.append(a[0]), real(*a))[1])
    build(splits, tmp_path / "killed", CONFIG, report=quiet, progress=telling(lambda *at: seen.append(at)))
    assert len([path for path in before if not path.name.startswith(".")]) >= 2
    assert seen[0] == (2, 5)
    assert seen[-1] == (5, 5)
    assert len(cut) == 3
    assert contents(tmp_path / "killed") == contents(built)
    assert not (tmp_path / "killed" / ".parts").exists()


def test_a_part_is_made_anew_when_the_scene_or_the_settings_changed(
    archive: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    scene = Path(shutil.copy(archive[0], tmp_path))
    names = {builder._part_name(scene, CONFIG), builder._part_name(scene, BuildConfig(tile=48, factors=(4, 2)))}
    names.add(builder._part_name(scene, BuildConfig(tile=32, factors=(4, 2), layers=LayerConfig(rules="corrected"))))
    os.utime(scene, (1, 1))
    names.add(builder._part_name(scene, CONFIG))
    assert len(names) == 4
    # What the tiles do not depend on makes no difference.
    assert builder._part_name(scene, BuildConfig(tile=32, factors=(4, 2), seed=5, shard_bytes=1)) in names


def test_a_failure_while_shards_are_written_leaves_whole_parts_only(
    built: Path, splits: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    written = []

    def write_index(shard: Path, samples: object) -> None:
        if len(written) == 2:
            raise OutputError("full")
        written.append(shard)

    with monkeypatch.context() as patch:
        patch.setattr(builder.manifests, "write_index", write_index)
        with pytest.raises(OutputError):
            build(splits, tmp_path, CONFIG, report=quiet)
    assert [path.name for path in tmp_path.iterdir()] == [".parts"]
    assert len(list((tmp_path / ".parts").glob("*.tar"))) == 5
    build(splits, tmp_path, CONFIG, report=quiet)
    assert contents(tmp_path) == contents(built)


def test_files_of_others_stay_where_they_are(
    splits: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    others = ["backup-202401.tar", "results-000001.json", ".editor.tmp", "train-notes1.json", "train-000000.txt"]
    for name in others:
        (tmp_path / name).write_text("mine")
    build({"train": splits["val"]}, tmp_path, CONFIG, report=quiet)
    assert all((tmp_path / name).read_text() == "mine" for name in others)


def test_a_bad_scene_stops_the_build_and_leaves_nothing(
    splits: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    bad = tmp_path / "bad.nc"
    bad.write_bytes(splits["val"][0].read_bytes()[:10_000])
    with pytest.raises(SceneError, match=rf"^{bad}: cannot be read"):
        build({"train": [bad]}, tmp_path / "out", CONFIG, report=quiet)
    assert not (tmp_path / "out").exists()


def test_a_bad_scene_is_skipped_when_asked(
    splits: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    bad = tmp_path / "bad.nc"
    bad.write_bytes(splits["val"][0].read_bytes()[:10_000])
    told: list[str] = []
    found = build({"train": [bad, *splits["val"]]}, tmp_path / "out", CONFIG, on_error="skip", report=told.append)
    assert len(told) == 1
    assert told[0].startswith(f"skipped: {bad}: cannot be read")
    assert found.scenes["bad"]["split"] == "train"
    assert found.scenes["bad"]["error"].startswith("bad.nc: cannot be read")
    assert "tiles" in found.scenes[NAMES[2]]
    with pytest.raises(SceneError, match=r"^none of 1 scenes could be read; the first: bad\.nc"):
        build({"train": [bad]}, tmp_path / "none", CONFIG, on_error="skip", report=quiet)


def test_warnings_are_told_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    rows = [scenes.ROWS[0].replace(";91;90;", ";94;90;"), *scenes.ROWS[1:]]
    path = scenes.write_raw(tmp_path / "odd.nc", lines=300, samples=350, rows=rows)
    told: list[str] = []
    found = build({"train": [path]}, tmp_path / "out", CONFIG, report=told.append)
    assert len(told) == 1
    assert "1 of 5 polygons have codes" in told[0]
    assert told[0].removeprefix("warning: ") == found.scenes["odd"]["warnings"][0]
    strict = BuildConfig(tile=32, factors=(2,), layers=LayerConfig(strict=True))
    with pytest.raises(SceneError, match="CT 94"):
        build({"train": [path]}, tmp_path / "strict", strict, report=quiet)


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
    with pytest.raises(SceneError, match=rf"^{path}: no tile of 512 pixels has 40% of valid pixels; leave it out or"):
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


def test_a_finished_folder_is_not_written_to_again(built: Path, splits: dict[str, list[Path]]) -> None:
    before = contents(built)
    assert build(splits, built, CONFIG, report=quiet) == read_manifest(built)
    for other, config in (({"train": splits["train"]}, CONFIG), (splits, replace(CONFIG, tile=48))):
        with pytest.raises(OutputError, match=rf"^{built}: holds finished shards of other"):
            build(other, built, config, report=quiet)
    assert contents(built) == before


def test_scenes_are_needed_each_once(splits: dict[str, list[Path]], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no scenes to build shards from"):
        build({"train": []}, tmp_path / "out", CONFIG)
    with pytest.raises(ConfigError, match=f"scene {NAMES[2]} stands twice"):
        build({"train": splits["val"], "val": splits["val"]}, tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tile": 8}, "key 'tile' is 8; set at least 16"),
        ({"factors": ()}, r"key 'factors' is \(\); set factors of 1 or more"),
        ({"factors": (0, 2)}, "key 'factors'"),
        ({"overlap": 384}, r"key 'overlap' is 384; set 0 or more and less than the tile \(384\)"),
        ({"min_valid": 1.5}, r"key 'min_valid' is 1.5; set a share in \[0, 1\]"),
        ({"layers": LayerConfig(min_valid=-1)}, r"key 'layers.min_valid' is -1; set a share in \[0, 1\]"),
        ({"shard_bytes": 0}, "key 'shard_bytes' is 0; set a positive number"),
    ],
)
def test_settings_that_cannot_be(values: dict[str, object], message: str, tmp_path: Path) -> None:
    config = BuildConfig(**values)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        build({"train": [tmp_path / "a.nc"]}, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


def test_a_part_that_was_changed_is_not_used(
    splits: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)

    def damage(done: int, total: int) -> None:
        for part in (tmp_path / "out" / ".parts").glob("*.tar"):
            data = bytearray(part.read_bytes())
            data[700] ^= 1
            part.write_bytes(data)

    with pytest.raises(OutputError, match=r"changed since it was written; remove .* and build again"):
        build({"train": splits["val"]}, tmp_path / "out", CONFIG, report=quiet, progress=telling(damage))


def test_a_crash_a_hang_and_a_fault_cost_their_own_scenes_only(
    splits: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In real processes; the others are as ever."""
    bad = [Path(shutil.copy(splits["val"][0], tmp_path / f"{name}.nc")) for name in ("crash", "hang", "fault")]
    monkeypatch.setattr(builder, "build_part", jobs.fragile_part)
    told: list[str] = []
    paths = [bad[0], *splits["train"][:2], *bad[1:], splits["train"][2]]
    machine = Machine(workers=2, time_limit=10)
    found = build({"train": paths}, tmp_path / "out", CONFIG, machine, "skip", report=told.append)
    reasons = {name: facts["error"] for name, facts in found.scenes.items() if "error" in facts}
    assert reasons == {
        "crash": "crash.nc: could not be worked on: its process ended by SIGABRT; get the file anew, or leave it out",
        "hang": "hang.nc: could not be worked on: it was not done after 10 s; get the file anew, or leave it out",
        "fault": "fault.nc: the program failed on it (ZeroDivisionError('division by zero')); report this fault",
    }
    assert sorted(told) == sorted(f"skipped: {tmp_path}/{reason}" for reason in reasons.values())
    monkeypatch.undo()
    in_this_process(monkeypatch)
    build({"train": splits["train"]}, tmp_path / "sound", CONFIG, report=quiet)
    whole, sound = contents(tmp_path / "out"), contents(tmp_path / "sound")
    assert {name for name in sound if whole[name] != sound[name]} == {"manifest.json"}
    assert found.fingerprint == read_manifest(tmp_path / "sound").fingerprint

    # By default each of them stops the build; a fault of the program keeps its trace.
    monkeypatch.undo()
    monkeypatch.setattr(builder, "build_part", jobs.fragile_part)
    with pytest.raises(SceneError, match=rf"^{bad[0]}: could not be worked on: its process ended by SIGABRT; get"):
        build({"train": bad[:1]}, tmp_path / "other", CONFIG, report=quiet)
    with pytest.raises(ZeroDivisionError) as fault:
        build({"train": bad[2:]}, tmp_path / "other", CONFIG, report=quiet)
    assert any("in divide" in note for note in fault.value.__notes__)
    assert not (tmp_path / "other").exists()


def test_two_builds_into_one_folder_refuse_each_other(
    splits: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    said: list[str] = []

    def build_again(done: int, total: int) -> None:
        with pytest.raises(OutputError, match=rf"another build works here \(process {os.getpid()} on ") as refused:
            build({"train": splits["val"]}, tmp_path / "out", CONFIG, report=quiet)
        said.append(str(refused.value))

    build({"train": splits["val"]}, tmp_path / "out", CONFIG, report=quiet, progress=telling(build_again))
    assert len(said) == 2
    assert read_manifest(tmp_path / "out").scenes.keys() == {NAMES[2]}


def test_too_little_space_is_told_before_the_work(
    splits: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    monkeypatch.setattr(builder, "free_bytes", lambda path: 123_456)
    monkeypatch.setattr(builder, "build_part", None)
    wanted = r"out: about \d\.\d MB are needed for parts and shards, 123 kB are free; free some space or choose"
    with pytest.raises(OutputError, match=wanted):
        build(splits, tmp_path / "out", CONFIG, report=quiet)
    assert not (tmp_path / "out").exists()


def test_a_scene_larger_than_the_memory_asked_for_is_worked_on_and_told(
    splits: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    told: list[str] = []
    build({"train": splits["val"]}, tmp_path / "out", CONFIG, Machine(memory=1000), report=told.append)
    (text,) = told
    assert text.endswith(
        "300 x 370 pixels take about 302 MB of memory, more than the 1.0 kB that may be used; it is worked on alone"
    )
    monkeypatch.setattr(builder, "machine_memory", lambda: (10**6, 10**7))
    with pytest.raises(SceneError, match=r"take about 302 MB of memory, this machine has 10\.0 MB; use a larger one"):
        build({"train": splits["val"]}, tmp_path / "other", CONFIG, report=quiet)


@pytest.mark.parametrize("machine", [Machine(workers=0), Machine(time_limit=0)])
def test_machines_that_cannot_be(machine: Machine, splits: dict[str, list[Path]], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set more than 0"):
        build(splits, tmp_path / "out", CONFIG, machine)
