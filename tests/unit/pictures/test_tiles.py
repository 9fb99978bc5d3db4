"""The picture of tiles: which are drawn, what of them, and that simulated scenes are marked."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arcticseg.data.manifest import read_index, read_manifest
from arcticseg.data.sample import decode, split_members
from arcticseg.errors import ConfigError
from arcticseg.pictures.colours import ALARM, COLOURS, MASKED, NO_DATA
from arcticseg.pictures.tiles import _choose, draw_tiles, planes
from shards import build as builder
from shards import machines
from shards.part import BuildConfig
from tests import scenes
from tests.archive import NAMES, InThisProcess, quiet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles of two scenes with a chart and of one that has neither a chart nor channels on the 2 km grid."""
    folder = tmp_path_factory.mktemp("tiles")
    bare = scenes.raw(300, 350, chart=False)
    for name in (*scenes.AMSR2, *scenes.ERA5):
        del bare[name]
    paths = [scenes.write(folder / f"{NAMES[4]}.nc", bare)]
    paths += [scenes.write_raw(folder / f"{NAMES[i]}.nc", lines=300, samples=350, seed=i) for i in (0, 2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machines, "Workers", InThisProcess)
        config = BuildConfig(tile=32, factors=(4, 2))
        builder.build({"train": paths[:2], "val": paths[2:]}, folder / "shards", config, report=quiet)
    return folder / "shards"


def test_simulated_tiles_are_marked(tiny_shards: Path, tmp_path: Path) -> None:
    draw_tiles(tiny_shards, tmp_path / "a.png", tiles=1)
    with Image.open(tmp_path / "a.png") as image:
        assert image.info["Description"].startswith("SIMULATED SCENES")
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert (pixels == tuple(bytes.fromhex(ALARM[1:]))).all(1).sum() > 1000, "the mark is not there"


def test_a_picture_of_tiles(built: Path, tmp_path: Path) -> None:
    draw_tiles(built, tmp_path / "a.png", tiles=3, seed=1)
    draw_tiles(built, tmp_path / "b.png", tiles=3, seed=1)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert "SIMULATED" not in image.info["Description"]
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] > 2000
    seen = {tuple(colour) for colour in pixels.reshape(-1, 3)[::7].tolist()}
    # Classes that the charts of these scenes have, and what is masked.
    assert {COLOURS["SIC"][10], COLOURS["SOD"][1], COLOURS["FLOE"][5], MASKED, NO_DATA} <= seen


def test_the_seed_chooses_and_every_factor_has_its_turn(built: Path) -> None:
    manifest = read_manifest(built)
    drawn = {seed: _choose(built, manifest, 7, seed) for seed in (1, 2)}
    assert drawn[1] == _choose(built, manifest, 7, 1)
    assert drawn[1] != drawn[2]
    for chosen in drawn.values():
        assert len({entry.key for *_, entry in chosen}) == 7
        assert sorted(entry.factor for *_, entry in chosen) == [entry.factor for *_, entry in chosen]
        assert sum(entry.factor == 4 for *_, entry in chosen) in (3, 4)
    total = sum(shard.samples for shards in manifest.splits.values() for shard in shards)
    assert len(_choose(built, manifest, total + 9, 0)) == total


def test_planes_are_what_the_tile_holds(built: Path) -> None:
    by_scene = {}
    for split, shards in read_manifest(built).splits.items():
        for shard in shards:
            data = (built / shard.name).read_bytes()
            for entry in read_index(built / shard.name):
                by_scene[split, entry.scene] = data[entry.offset : entry.offset + entry.size]
    tile = decode(*split_members(by_scene["val", NAMES[2]]))
    layers = planes(tile)
    assert all(plane.shape == (32, 32) for plane in layers.values())
    np.testing.assert_array_equal(np.isnan(layers["hh"]), tile.hh == 0)
    # The angle grows with the sample, as `scenes.geolocation` makes it.
    assert (np.diff(layers["incidence"], axis=1) > 0).all()
    assert 15 < layers["incidence"].min() < layers["incidence"].max() < 50
    assert np.nanmin(layers["t2m"]) >= 245 - 0.01
    assert np.nanmax(layers["t2m"]) <= 285 + 0.01
    bare = planes(decode(*split_members(by_scene["train", NAMES[4]])))
    assert np.isnan(bare["t2m"]).all()
    assert np.isfinite(bare["hh"]).any()


def test_tiles_without_charts_or_coarse_channels(built: Path, tmp_path: Path) -> None:
    manifest = read_manifest(built)
    total = sum(shard.samples for shards in manifest.splits.values() for shard in shards)
    # A seed whose only tile is of the bare scene.
    seed = next(seed for seed in range(total) if _choose(built, manifest, 1, seed)[0][2].scene == NAMES[4])
    draw_tiles(built, tmp_path / "a.png", tiles=1, seed=seed)
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_what_cannot_be_drawn(built: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--tiles is 0"):
        draw_tiles(built, tmp_path / "a.png", tiles=0)
    with pytest.raises(ConfigError, match=r"--picture is '.*a\.pdf'.*\.png"):
        draw_tiles(built, tmp_path / "a.pdf")
