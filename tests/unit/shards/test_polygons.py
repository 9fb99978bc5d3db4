"""Labels and polygons in shards of simulated scenes, against a slow reading of the scene by the words of the docs."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import literal
import netCDF4
import numpy as np
import pytest

from arcticseg.data import sample
from arcticseg.data.manifest import Manifest
from arcticseg.data.tile import Tile, cut
from arcticseg.ice.chart import parse_polygon_codes, polygon_classes
from arcticseg.ice.layers import LayerConfig, read_layers
from arcticseg.ice.scenes.open import open_scene
from shards import build as builder
from shards import machines
from shards.check import check, check_sample
from shards.part import BuildConfig, _sample, samples
from shards.simulate import simulate_scene
from tests import scenes
from tests.archive import InThisProcess, quiet
from tests.rules import EMPTY, FLOE, SIC, SOD

SIZE = 64
FACTORS = (1, 2, 5, 7)
METHODS = ("majority", "nearest", "maximum")
COLUMNS = "poly_id;CT;CA;SA;FA;CB;SB;FB;CC;SC;FC;CN;CD;CF;POLY_TYPE"


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Scenes with ice of several kinds, swath edges and land."""
    folder = tmp_path_factory.mktemp("simulated")
    return [simulate_scene(folder, index=i, seed=4, size=(900, 1000)) for i in (1, 2)]


def tiles_of(path: Path, factor: int, config: LayerConfig) -> list[Tile]:
    """All tiles of a scene at a factor, each once encoded and decoded."""
    with open_scene(path) as scene:
        (layers,) = read_layers(scene, [factor], config)
    places = [
        (row, col) for row in literal.steps(layers.shape[0], SIZE) for col in literal.steps(layers.shape[1], SIZE)
    ]
    tiles = (cut(layers, row, col, SIZE) for row, col in places)
    return [sample.decode(tile.key, sample.encode(tile)) for tile in tiles]


def literal_row(cells: dict[str, str]) -> dict[str, Any]:
    """A polygon's row by the words of the page: classes; null = empty; 1000 + code = no class."""

    def of(name: str, table: dict[int, int]) -> int | None:
        code = literal.number(cells[name])
        return None if code == EMPTY else table.get(code, 1000 + code)

    floes = {code: size for code, size in FLOE.items() if code != 99}
    label = literal.classes_of(cells)
    return {
        "label": list(label),
        "ct": 0 if label[0] == 0 else of("CT", SIC),
        "partials": [[of(f"C{part}", SIC), of(f"S{part}", SOD), of(f"F{part}", floes)] for part in "ABC"],
    }


class Scene:
    """A raw scene as netCDF4 reads it."""

    def __init__(self, path: Path) -> None:
        with netCDF4.Dataset(path) as file:
            file.set_auto_maskandscale(False)
            self.ids = np.nan_to_num(np.asarray(file["polygon_icechart"][:]), nan=-1).astype(int)
            rows = [str(row) for row in file["polygon_codes"][:]]
            self.sar = [np.asarray(file[f"nersc_sar_{name}"][:]) for name in ("primary", "secondary")]
        header = rows[0].split(";")
        cells = [dict(zip(header, row.split(";"), strict=True)) for row in rows[1:]]
        self.rows = {int(row["poly_id"]): literal_row(row) for row in cells}
        self.order = {identity: place for place, identity in enumerate(self.rows)}
        self.labels = {identity: tuple(row["label"]) for identity, row in self.rows.items()}
        self.labels[-1] = (255, 255, 255)

    def block(self, pixels: list[int], how: str) -> dict[str, Any] | None:
        """The row of a block of polygon ids in order of lines; None: no polygon."""
        if len(set(pixels)) == 1:
            return self.rows.get(pixels[0])
        centre = round(len(pixels) ** 0.5) // 2
        if how == "nearest":
            return self.rows.get(pixels[centre * round(len(pixels) ** 0.5) + centre])
        labels = []
        for chart in range(3):
            votes = Counter(self.labels[pixel][chart] for pixel in pixels)
            if how == "maximum":
                labels.append(max(votes))
                continue
            del votes[255]
            labels.append(min(votes, key=lambda value: (-votes[value], value), default=255))
        votes = Counter(pixel for pixel in pixels if self.labels[pixel] == tuple(labels))
        # On a tie the first in the table; outside all polygons comes last.
        polygon = min(votes, key=lambda p: (-votes[p], self.order.get(p, len(self.order))), default=None)
        if polygon is None:
            return {"label": labels} if labels != [255] * 3 else None
        return self.rows.get(polygon)

    def lacks_sar(self, k: int) -> np.ndarray:
        """Where a block has no mean of one of the polarisations."""
        with np.errstate(divide="ignore"):
            means = [literal.mean(10.0 ** (image.astype(float) / 10), k, 0.5) for image in self.sar]
        return np.logical_or.reduce([np.isnan(mean) for mean in means])


@pytest.mark.parametrize("how", METHODS)
@pytest.mark.parametrize("factor", FACTORS[1:])
def test_polygons_are_those_of_a_slow_vote(simulated: list[Path], factor: int, how: str) -> None:
    mixed = 0
    for path in simulated:
        scene = Scene(path)
        blocks, lacking = literal.blocks(scene.ids, factor), scene.lacks_sar(factor)
        for tile in tiles_of(path, factor, LayerConfig(labels=how)):
            assert tile.poly is not None
            assert tile.lab is not None
            rows = [row.to_json() for row in tile.polygons]
            none = np.iinfo(tile.poly.dtype).max
            for i, j in np.ndindex(tile.poly.shape):
                place = tile.row + i, tile.col + j
                expected = None if lacking[place] else scene.block(blocks[place].tolist(), how)
                if expected is None:
                    assert tile.poly[i, j] == none
                else:
                    assert rows[tile.poly[i, j]] == expected
                    mixed += "partials" not in expected
    assert (mixed > 0) == (how != "nearest")


@pytest.mark.parametrize("how", METHODS)
@pytest.mark.parametrize("rules", ["autoice", "corrected"])
def test_rows_reproduce_the_labels(simulated: list[Path], rules: str, how: str) -> None:
    """Bit for bit, from the rows' labels and, where votes came from one polygon, from its partials by the rules."""
    config = LayerConfig(rules=rules, labels=how)
    seen = 0
    for path in simulated:
        for tile in (tile for factor in FACTORS for tile in tiles_of(path, factor, config)):
            assert tile.poly is not None
            assert tile.lab is not None
            labels = [list(row.label) for row in tile.polygons]
            labels += [[255] * 3] * (int(np.iinfo(tile.poly.dtype).max) + 1 - len(labels))
            np.testing.assert_array_equal(np.array(labels, np.uint8)[tile.poly], np.moveaxis(tile.lab, 0, -1))
            whole = [row.to_json() for row in tile.polygons if row.partials is not None]
            again = polygon_classes(
                parse_polygon_codes([COLUMNS, *map(codes_of, range(len(whole)), whole)], "row"), rules
            )
            assert again.tolist() == [row["label"] for row in whole]
            seen += len(whole)
    assert seen > 100


def codes_of(identity: int, row: dict[str, Any]) -> str:
    """A row of `polygon_codes` that means what a sample's row says: for each class one of its codes."""

    def code(value: int | None, table: dict[int, int]) -> str:
        if value is None:
            return "-9"
        return str(value - 1000 if value >= 1000 else next(c for c, of in reversed(table.items()) if of == value))

    floes = {code: size for code, size in FLOE.items() if code != 99}
    cells = {"poly_id": str(identity), "CT": code(row["ct"], SIC), "POLY_TYPE": "I"}
    for letter, (concentration, stage, floe) in zip("ABC", row["partials"], strict=True):
        cells[f"C{letter}"] = code(concentration, SIC)
        cells[f"S{letter}"] = code(stage, SOD)
        cells[f"F{letter}"] = code(floe, floes)
    return ";".join(cells.get(name, "-9") for name in COLUMNS.split(";"))


def test_no_labelled_pixel_without_backscatter_is_in_any_shard(
    simulated: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "Workers", InThisProcess)
    config = BuildConfig(tile=SIZE, factors=(1, 2, 3, 5, 10), min_valid=0.05)
    manifest = builder.build({"train": simulated}, tmp_path, config, report=quiet)
    assert check(tmp_path) == []
    masked = 0
    for path in simulated:
        with open_scene(path) as scene:
            for layers in read_layers(scene, config.factors, config.layers):
                for entry, data in samples(layers, config):
                    tile = sample.decode(*sample.split_members(data))
                    assert tile.lab is not None
                    lacking = (tile.hh == 0) | (tile.hv == 0)
                    assert (tile.lab[:, lacking] == 255).all()
                    assert (tile.poly[lacking] == np.iinfo(tile.poly.dtype).max).all()  # type: ignore[index, union-attr]
                    assert entry.counts["SIC"][-1] == (tile.lab[0] == 255).sum()
                    masked += lacking.sum()
    assert masked > 1000
    assert manifest.schema == 3


def test_odd_codes_stand_in_rows_as_the_page_says(tmp_path: Path) -> None:
    rows = (
        "3;92;90;95;06;99;70;14;-9;-9;-9;-9;-9;06-9;I",  # no class: 99 of stage 70 in floes 14
        "5;60;30;93;99;30;84;08;;;;-9;-9;05-9;I",  # floes unknown, and too small
        "8;5x;x;95;06;-9;-9;-9;-9;-9;-9;-9;-9;06-9;I",  # garbled
        "9;01;-9;-9;-9;-9;-9;-9;-9;-9;-9;-9;-9;-9;W",
        "11;-9;-9;-9;-9;-9;-9;-9;-9;-9;-9;-9;-9;-9;L",
    )
    path = scenes.write_raw(tmp_path / f"{scenes.RAW_NAME}.nc", rows=rows)
    with pytest.warns(UserWarning, match="without a class"):
        tiles = tiles_of(path, 2, LayerConfig(labels="nearest"))
    by_partials = {json.dumps(row.to_json()["partials"]): row for tile in tiles for row in tile.polygons}
    empty = "[null, null, null]"
    assert set(by_partials) == {
        f"[[9, 5, 5], [1099, 1070, 1014], {empty}]",
        f"[[3, 4, 1099], [3, 2, 255], {empty}]",
        f"[[1999, 5, 5], {empty}, {empty}]",
        f"[{empty}, {empty}, {empty}]",
    }
    assert by_partials[f"[[1999, 5, 5], {empty}, {empty}]"].total == 1999
    totals = {row.total for tile in tiles for row in tile.polygons}
    assert totals == {10, 6, 1999, 0, None}


def test_more_rows_than_a_byte_numbers(tmp_path: Path) -> None:
    """A tile of 300 polygons, and one of 3."""
    rows = [f"{i};{10 * (i % 9 + 1)};-9;95;06;-9;-9;-9;-9;-9;-9;-9;-9;06-9;I" for i in range(300)]
    variables = scenes.raw(rows=rows)
    ids = variables["polygon_icechart"][1]
    ids[:300] = np.arange(300).repeat(1)[:, None] % 300
    ids[300:] = 7
    path = scenes.write(tmp_path / f"{scenes.RAW_NAME}.nc", variables)
    with open_scene(path) as scene:
        (layers,) = read_layers(scene, [1])
    for row, size, dtype, n in ((0, 300, np.uint16, 300), (300, 200, np.uint8, 1)):
        tile = cut(layers, row, 100, size)
        assert tile.poly is not None
        assert tile.poly.dtype == dtype
        assert len(tile.polygons) == n
        again = sample.decode(tile.key, sample.encode(tile))
        np.testing.assert_array_equal(again.poly, tile.poly)
        assert again.polygons == tile.polygons
        assert [again.polygons[int(k)].total for k in tile.poly[:, 0]] == [
            int(i) % 9 + 1 for i in ids[row : row + size, 100]
        ]


def test_scenes_without_polygons_have_no_such_member(tmp_path: Path) -> None:
    with open_scene(scenes.write_raw(tmp_path / f"{scenes.RAW_NAME}.nc", chart=False)) as scene:
        (layers,) = read_layers(scene, [2])
    tile = cut(layers, 0, 0, SIZE)
    assert tile.poly is None
    assert set(sample.encode(tile)) == {"aux.b2", "dist.zst", "geo.bin", "hh.b2", "hv.b2", "json"}


def test_the_check_names_what_does_not_fit_the_polygons(simulated: list[Path]) -> None:
    tile = next(
        tile for tile in tiles_of(simulated[0], 2, LayerConfig()) if len(tile.polygons) > 1 and not tile.valid.all()
    )
    assert tile.lab is not None
    assert tile.poly is not None
    manifest = Manifest(SIZE, (2,), {}, {}, {}, {}, False, "")
    other = tile.lab.copy()
    other[0] = np.where(tile.lab[0] == 1, 2, 1)
    above = tile.poly.copy()
    above[0, 0] = 200
    unseen = replace(tile, poly=None, polygons=(), hh=np.where(tile.lab[0] < 255, 0, tile.hh).astype(np.uint16))
    unseen = replace(unseen, hv=unseen.hh)
    for changed, message in (
        (tile, None),
        (replace(tile, lab=other), "other labels than the polygons"),
        (replace(tile, poly=above), "row above"),
        (unseen, "labels where there is no SAR"),
    ):
        entry, data = _sample(changed)
        told = list(check_sample(data, entry, manifest))
        assert (told == []) if message is None else any(message in line for line in told)
