from pathlib import Path

import numpy as np
import pytest
from archive import InThisProcess
from archive import write as write_archive
from PIL import Image

from arcticseg.data.manifest import read_index, read_manifest
from arcticseg.data.sample import decode, split_members
from arcticseg.errors import ConfigError, ShardError
from arcticseg.pictures.colours import COLOURS, MASKED, NO_DATA
from arcticseg.pictures.tiles import _choose, picture, planes
from launchers.cli import main
from shards import build as builder
from shards.info import summary
from shards.part import BuildConfig
from tests import scenes


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("info")
    paths = write_archive(folder / "scenes")
    bad = folder / "bad.nc"
    bad.write_bytes(b"nothing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "Workers", InThisProcess)
        config = BuildConfig(tile=32, factors=(4, 2))
        splits = {"train": [paths[0], paths[4], bad], "val": [paths[2]]}
        builder.build(splits, folder / "shards", config, on_error="skip", report=lambda text: None)
    return folder / "shards"


def test_a_summary_says_what_there_is(built: Path) -> None:
    text = summary(built)
    found = read_manifest(built)
    lines = text.splitlines()
    tiles = {scene: facts["tiles"] for scene, facts in found.scenes.items() if "tiles" in facts}
    total = sum(sum(numbers.values()) for numbers in tiles.values())
    assert lines[0].startswith(f"{built}: 3 scenes, {total} samples, 2 shards, ")
    assert "  ice service  cis 2, dmi 1" in lines
    assert "  acquired     2018-07-21 to 2019-02-12" in lines
    assert f"  fingerprint  {found.fingerprint}" in lines
    assert "scenes that could not be read: 1" in lines
    assert any(line.startswith("  bad.nc: cannot be read") for line in lines)
    assert any("factors=[2, 4]" in line and "layers.rules=autoice" in line for line in lines)
    assert "SIMULATED" not in text
    row = next(line.split() for line in lines if line.startswith("train "))
    train = [numbers for scene, numbers in tiles.items() if found.scenes[scene]["split"] == "train"]
    assert row[:3] == ["train", "2", "1"]
    assert [int(number) for number in row[-3:]] == [
        sum(sum(numbers.values()) for numbers in train), *(sum(numbers[k] for numbers in train) for k in ("2", "4"))
    ]  # fmt: skip


def test_class_shares_are_of_labelled_pixels_at_the_finest_factor(built: Path) -> None:
    counts = np.zeros(7)
    for shard in read_manifest(built).splits["val"]:
        counts += np.sum([e.counts["SOD"] for e in read_index(built / shard.name) if e.factor == 2], axis=0)
    lines = summary(built).splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("SOD"))
    # The training's column stands first.
    shares = [float(line.split()[-1].rstrip("%")) / 100 for line in lines[first + 1 : first + 8]]
    np.testing.assert_allclose(shares[:6], counts[:6] / counts[:6].sum(), atol=6e-4)
    assert shares[6] == pytest.approx(counts[6] / counts.sum(), abs=6e-4)


def test_simulated_shards_say_so(tiny_shards: Path, tmp_path: Path) -> None:
    assert summary(tiny_shards).startswith("SIMULATED: 5 of 5 scenes are no observations")
    picture(tiny_shards, tmp_path / "a.png", tiles=2)
    with Image.open(tmp_path / "a.png") as image:
        assert image.info["Description"].startswith("SIMULATED SCENES")
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert (pixels == (179, 18, 58)).all(1).sum() > 1000, "the mark is not there"


def test_a_picture_of_tiles(built: Path, tmp_path: Path) -> None:
    picture(built, tmp_path / "a.png", tiles=3, seed=1)
    picture(built, tmp_path / "b.png", tiles=3, seed=1)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert "SIMULATED" not in image.info["Description"]
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] > 2000
    seen = {tuple(colour) for colour in pixels.reshape(-1, 3)[::7].tolist()}
    # Classes that the charts of these scenes have, and what is masked.
    assert {COLOURS["SIC"][10], COLOURS["SOD"][1], COLOURS["FLOE"][5], MASKED, NO_DATA} <= seen


def test_the_seed_chooses_and_every_factor_has_its_turn(built: Path) -> None:
    found = read_manifest(built)
    drawn = {seed: _choose(built, found, 7, seed) for seed in (1, 2)}
    assert drawn[1] == _choose(built, found, 7, 1)
    assert drawn[1] != drawn[2]
    for chosen in drawn.values():
        assert len({entry.key for *_, entry in chosen}) == 7
        assert sorted(entry.factor for *_, entry in chosen) == [entry.factor for *_, entry in chosen]
        assert sum(entry.factor == 4 for *_, entry in chosen) in (3, 4)
    total = sum(shard.samples for shards in found.splits.values() for shard in shards)
    assert len(_choose(built, found, total + 9, 0)) == total


def test_planes_are_what_the_tile_holds(built: Path) -> None:
    shard = read_manifest(built).splits["train"][0]
    entry = read_index(built / shard.name)[0]
    data = (built / shard.name).read_bytes()[entry.offset : entry.offset + entry.size]
    tile = decode(*split_members(data))
    found = planes(tile)
    assert all(plane.shape == (32, 32) for plane in found.values())
    np.testing.assert_array_equal(np.isnan(found["hh"]), tile.hh == 0)
    # The angle grows with the sample, as `scenes.geolocation` makes it.
    assert (np.diff(found["incidence"], axis=1) > 0).all()
    assert 15 < found["incidence"].min() < found["incidence"].max() < 50
    assert np.nanmin(found["t2m"]) >= 245 - 0.01
    assert np.nanmax(found["t2m"]) <= 285 + 0.01


def test_shards_without_charts_or_coarse_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "Workers", InThisProcess)
    kept = {name: v for name, v in scenes.raw(300, 350, chart=False).items() if not name.startswith("btemp")}
    for name in scenes.ERA5:
        del kept[name]
    path = scenes.write(tmp_path / "a.nc", kept)
    builder.build({"train": [path]}, tmp_path / "out", BuildConfig(tile=32, factors=(4,)), report=lambda text: None)
    assert "share of labelled pixels" not in summary(tmp_path / "out")
    picture(tmp_path / "out", tmp_path / "a.png", tiles=1)
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_the_command(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shards", "info", str(built), "--picture", str(tmp_path / "a.png"), "--tiles", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed == f"{summary(built)}\n\n{tmp_path / 'a.png'}\n"
    assert (tmp_path / "a.png").is_file()


def test_what_cannot_be_drawn(built: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--tiles is 0; set 1 or more"):
        picture(built, tmp_path / "a.png", tiles=0)
    with pytest.raises(ConfigError, match=r"--picture is '.*a\.pdf'; name a \.png file"):
        picture(built, tmp_path / "a.pdf")
    with pytest.raises(ShardError, match=r"holds no manifest\.json"):
        summary(tmp_path)
