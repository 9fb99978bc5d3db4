"""Polygons on their way from shards to a loss: each pixel's row says what its label says, however tiles are turned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import made
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import Tensor

from arcticseg.data import pixels
from arcticseg.data.augment import Augment
from arcticseg.data.batch import Batch
from arcticseg.data.config import DataConfig
from arcticseg.data.decode import MAX_ROWS, Layout
from arcticseg.data.inputs import Inputs
from arcticseg.data.loader import Loader, make_order
from arcticseg.data.manifest import read_manifest
from arcticseg.data.reader import SampleReader, has_polygons
from arcticseg.data.select import Selection, select
from arcticseg.data.share import Share
from arcticseg.data.tile import Tile
from arcticseg.data.transforms import Assemble, Codes
from arcticseg.ice.channels import expand
from arcticseg.ice.partials import PolygonRow
from arcticseg.ice.soft import COLUMNS
from tests.strict import on_device
from tests.unit.data.test_decode import decoded

CHANNELS = expand(("hh", "hv", "distance"))
AUGMENTS = {
    "none": Augment(),
    "turns": Augment(1, flips=True, quarter_turns=True),
    "crops": Augment(2, flips=True, quarter_turns=True, crop=0.4),
    "mixed": Augment(3, True, True, (), cutmix=0.9),
    "all": Augment(4, True, True, (), 0.5, 0.9),
    "free": Augment(5, True, True, (), 0.6, 0.9, rotate=180, zoom_out=1.5),
}


def charted(number: int, rows: int = 30) -> Tile:
    """A tile of polygons that hold one stage and floe size each, drawn for the tile, and say so as labels, too."""
    random = np.random.default_rng(100 + number)
    polygons = []
    for _ in range(rows):
        sod, floe = int(random.integers(1, 6)), int(random.integers(1, 7))
        polygons.append(PolygonRow((10, sod, floe), 10, ((10, sod, floe), (None,) * 3, (None,) * 3)))
    labels = np.array([*(row.label for row in polygons), (255, 255, 255)], np.uint8)
    tile = made.tile(number)
    poly = random.integers(0, rows + 1, tile.hh.shape)
    dtype = np.uint8 if rows <= 255 else np.uint16
    stored = np.where(poly == rows, np.iinfo(dtype).max, poly).astype(dtype)
    return replace(tile, lab=np.moveaxis(labels[poly], -1, 0).copy(), poly=stored, polygons=tuple(polygons))


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> Selection:
    folder = tmp_path_factory.mktemp("shards")
    made.write(folder, [charted(i) for i in range(11)] + [made.tile(11)])
    return select(folder, read_manifest(folder), "train")


def batches(selection: Selection, augment: Augment, polygons: bool = True, workers: int = 0) -> list[Batch]:
    """All tiles in batches of 4."""
    layout = Layout.of(made.SIZE, (4,), CHANNELS, polygons=polygons)
    order = make_order(selection, DataConfig(), "none", 0)
    loader = Loader(SampleReader(selection, layout.core_only), layout, order, Share(0, 1, 12, 4), workers, augment)
    copies = [
        replace(batch, lab=batch.lab.clone(), hh=batch.hh.clone(), hv=batch.hv.clone()) for batch in loader.step()
    ]
    if polygons:
        copies = [replace(batch, shares=batch.shares.clone()) for batch in copies if batch.shares is not None]
    loader.close()
    return copies


def labels_by_rows(inputs: Inputs | Codes) -> Tensor:
    """SOD and FLOE, uint8 [B, 2, H, W], as the tables say; 255 where there is no row."""
    polygons = inputs.polygons
    assert polygons is not None
    charts = [polygons.shares[:, COLUMNS[chart]] for chart in ("SOD", "FLOE")]
    assert all(set(chart.unique().tolist()) <= {0.0, 1.0} for chart in charts)
    classes = [torch.where(chart.sum(dim=1) > 0, chart.argmax(dim=1), 255) for chart in charts]
    table = torch.stack([torch.cat([of_rows, torch.tensor([255])]) for of_rows in classes])
    return table[:, polygons.rows.long()].movedim(0, 1).to(torch.uint8)


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("compiled", [False, True])
def test_rows_say_what_labels_say(
    compiled: bool, augment: str, selection: Selection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "_compiled", lambda function: function)
    assemble = Assemble(CHANNELS, True, compiled=compiled)
    seen = set()
    for batch in batches(selection, AUGMENTS[augment]):
        planned = assemble.plan(batch) if compiled else batch
        inputs = assemble(planned)
        assert inputs.labels.shape == (4, 3, made.SIZE, made.SIZE)
        # One tile has labels, and no polygons.
        assert batch.shares is not None
        plain = batch.shares.flatten(1).any(dim=1)
        rows, expected = labels_by_rows(inputs), inputs.labels[:, 1:]
        if plain.all():
            assert torch.equal(rows, expected)
        else:
            assert ((rows == expected) | (rows == 255)).all()
        seen |= set(rows.unique().tolist())
        codes = Codes(assemble, planned)
        counted = labels_by_rows(codes)
        assert (counted != 255).sum() == (rows != 255).sum()
        if plain.all():
            assert torch.equal(counted, codes.labels[:, 1:])
    assert seen == {1, 2, 3, 4, 5, 6, 255}


def test_a_box_of_cutmix_keeps_the_rows_of_its_own_sample(selection: Selection) -> None:
    batch = batches(selection, Augment(3, cutmix=1.0))[0]
    assert batch.draws is not None
    assert batch.draws.mix is not None
    polygons = Assemble(CHANNELS)(batch).polygons
    assert polygons is not None
    for sample, (top, bottom, left, right) in enumerate(batch.draws.mix.tolist()):
        owner = torch.full((made.SIZE, made.SIZE), sample)
        owner[top:bottom, left:right] = sample ^ 1
        rows = polygons.rows[sample]
        nothing = rows == len(polygons.shares)
        assert torch.equal((rows // MAX_ROWS)[~nothing].long(), owner[~nothing])
        local = torch.where(nothing, 255, rows % MAX_ROWS)
        assert torch.equal(local.byte(), batch.lab[:, 3][owner, *np.indices(owner.shape)])


@pytest.mark.parametrize("workers", [0, 2])
def test_nobody_pays_who_does_not_ask(workers: int, selection: Selection) -> None:
    plain = batches(selection, AUGMENTS["none"], polygons=False, workers=workers)
    asked = batches(selection, AUGMENTS["none"], polygons=True, workers=workers)
    for bare, full in zip(plain, asked, strict=True):
        assert not bare.polygons
        assert bare.lab.shape[1] == 3
        assert torch.equal(bare.lab, full.lab[:, :3])
        assert Assemble(CHANNELS)(bare).polygons is None
    core = Layout.of(made.SIZE, (4,), expand(("hh", "hv")))
    assert core.core_only
    assert not replace(core, poly=True).core_only
    assert replace(core, poly=True).bytes(1) > core.bytes(1)


@pytest.mark.parametrize("rows", [255, 256, 300])
def test_rows_beyond_the_table_are_none(rows: int) -> None:
    tile = charted(1, rows)
    assert tile.poly is not None
    arrays = decoded(tile, Layout.of(made.SIZE, [4], CHANNELS, polygons=True), before=charted(2, 20))
    expected = np.where(tile.poly < MAX_ROWS, tile.poly, 255)
    np.testing.assert_array_equal(arrays["lab"][3], expected)
    assert arrays["shares"].any(axis=1).all()
    np.testing.assert_array_equal(arrays["lab"][:3], tile.lab)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_tile_without_polygons_leaves_nothing_of_the_one_before(labelled: bool) -> None:
    layout = Layout.of(made.SIZE, [4], CHANNELS, polygons=True)
    arrays = decoded(made.tile(3, labelled=labelled), layout, before=charted(2))
    assert (arrays["lab"][3] == 255).all()
    assert not arrays["shares"].any()
    assert (arrays["lab"][:3] == 255).all() != labelled


def test_parting_asks_the_device_for_nothing(selection: Selection) -> None:
    assemble = Assemble(CHANNELS)
    batch = on_device(assemble.plan(batches(selection, AUGMENTS["all"])[0]))
    assert Codes(assemble, batch).polygons is not None


def test_whether_shards_hold_polygons_is_seen(selection: Selection, tmp_path: Path) -> None:
    made.write(tmp_path, [made.tile(i, scene=f"s{i}") for i in range(40)])
    plain = select(tmp_path, read_manifest(tmp_path), "train")
    assert (has_polygons(selection), has_polygons(plain)) == (True, False)
