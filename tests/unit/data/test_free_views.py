"""Free angles, zooms, speckle and trends against loops over pixels, on both paths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import made
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from arcticseg.data import pixels
from arcticseg.data.augment import Augment
from arcticseg.data.batch import Batch, collate
from arcticseg.data.config import AugmentConfig, DataConfig
from arcticseg.data.inputs import Inputs, Want
from arcticseg.data.tile import Tile
from arcticseg.data.transforms import Assemble, Codes
from arcticseg.ice.channels import CHANNELS, COARSE, GROUPS, INPUTS, expand
from tests.tensors import close
from tests.unit.data import literal
from tests.unit.data.test_transforms import drawn, flagged

EVERY = expand(GROUPS)
SIZE = made.SIZE
WIND = ("u10m_rotated", "v10m_rotated")
PATHS = pytest.mark.parametrize("compiled", [False, True])
AUGMENTS = {
    "angle": Augment(1, rotate=180),
    "zoom": Augment(2, zoom_out=3),
    "crop and angle": Augment(3, True, True, crop=0.4, rotate=30),
    "speckle": Augment(4, speckle=3),
    "trend": Augment(5, True, True, incidence_trend=0.5),
    "everything": Augment(6, True, True, (), 0.5, 0.0, 45, 1.6, 2, 0.3),
}


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled path's functions, called as they are."""
    monkeypatch.setattr(pixels, "_compiled", lambda function: function)


def tiles() -> list[Tile]:
    """Tiles with holes, one without coarse cells, one that lacks an angle, its time and its labels."""
    four = [made.tile(i, cells=cells) for i, cells in enumerate((3, 0, 5, 4))]
    aux = four[0].aux.copy()
    # Both components of the wind are missing together, and their speeds are below 43 m/s.
    wind = [COARSE.index(name) for name in WIND]
    for i, tile in enumerate(four):
        aux = tile.aux.copy()
        aux[wind] = np.random.default_rng(i).integers(15001, 45001, aux[wind].shape)
        aux[wind, :1, :1] = 0
        four[i] = replace(tile, aux=aux)
    geo = four[3].geo.copy()
    geo[2, 0, 1] = np.nan
    four[3] = replace(four[3], geo=geo, time=None, lab=None)
    return four


def made_of(assemble: Assemble, batch: Batch, compiled: bool) -> Inputs:
    return assemble(assemble.plan(batch) if compiled else batch)


@PATHS
@pytest.mark.parametrize("augment", AUGMENTS)
def test_each_pixel_is_what_loops_give(augment: str, compiled: bool) -> None:
    four = tiles()
    batch = collate(four, range(20, 24), AUGMENTS[augment])
    assemble = Assemble(EVERY, True, compiled=compiled, missing_planes=True)
    inputs = made_of(assemble, batch, compiled)
    assert torch.isfinite(inputs.x).all()
    for i, tile in enumerate(four):
        draws = literal.Drawn.of(batch.draws, i)
        np.testing.assert_array_equal(inputs.labels[i].numpy(), literal.labels(tile, draws))
        there = {}
        for j, name in enumerate(EVERY):
            expected = literal.plane(tile, draws, name)
            there[name] = np.isfinite(expected)
            np.testing.assert_array_equal(inputs.data[i, j].numpy(), there[name], err_msg=name)
            assert (inputs.x[i, j].numpy()[~there[name]] == 0).all()
            values = inputs.x[i, j].double().numpy() * INPUTS[name].std + INPUTS[name].mean
            if name == "sar_grid_longitude":
                values = expected + (values - expected + 180) % 360 - 180
            np.testing.assert_allclose(
                values[there[name]], expected[there[name]], rtol=3e-5, atol=5e-4, err_msg=f"{name} of tile {i}"
            )
        assert inputs.data[i, len(EVERY) :].all()
        valid = there["nersc_sar_primary"] | there["nersc_sar_secondary"]
        np.testing.assert_array_equal(inputs.x[i, len(EVERY)].numpy(), valid)
        for j, group in enumerate(assemble.missing, len(EVERY) + 1):
            some = np.any([there[name] for name in EVERY if INPUTS[name].group == group], axis=0)
            np.testing.assert_array_equal(inputs.x[i, j].numpy(), ~some, err_msg=group)


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mixed", [False, True])
def test_both_paths_give_the_same(augment: str, dtype: torch.dtype, mixed: bool) -> None:
    """With CutMix and dropped groups, too; and codes tell what will count."""
    drops = (("hv", 0.5), ("amsr2", 0.4), ("season", 0.5))
    wanted = replace(AUGMENTS[augment], drop_groups=drops, cutmix=0.9 if mixed else 0.0)
    batch = collate(tiles(), range(40, 44), wanted)
    for targets in (None, (0, 3, len(EVERY), len(EVERY) + 2)):
        want = Want(dtype, targets)
        plain = Assemble(EVERY, True, want=want, missing_planes=True)
        other = Assemble(EVERY, True, want=want, compiled=True, missing_planes=True)
        expected, inputs = plain(batch), other(other.plan(batch))
        planned = plain(plain.plan(batch))
        for ours in (inputs, planned):
            if dtype == torch.bfloat16:
                close(ours.seen, expected.seen)
            else:
                torch.testing.assert_close(ours.seen, expected.seen, rtol=1e-4, atol=2e-3)
            assert torch.equal(ours.data, expected.data)
            assert torch.equal(ours.labels, expected.labels)
            if targets is not None:
                torch.testing.assert_close(ours.values(targets), expected.values(targets), rtol=1e-4, atol=2e-3)
        whole = [0, 5, len(EVERY), len(EVERY) + 1] if targets is None else list(targets)
        for assemble in (plain, other):
            codes = Codes(assemble, assemble.plan(batch))
            assert torch.equal(codes.valid(whole), expected.valid(whole))
            for chart in range(3):
                counts = (
                    torch.bincount(part[:, chart].flatten(), minlength=256) for part in (codes.labels, inputs.labels)
                )
                assert torch.equal(*counts)


@PATHS
@pytest.mark.parametrize(
    ("degrees", "flags"),
    [
        (0, (False, False, False)),
        (90, (True, True, False)),
        (180, (False, True, True)),
        (-180, (False, True, True)),
        (-90, (True, False, True)),
    ],
)
def test_an_angle_of_quarters_is_a_quarter_turn(degrees: float, flags: tuple[bool, bool, bool], compiled: bool) -> None:
    batch = collate([made.tile(0), made.tile(1, cells=5)], [0, 1])
    assemble = Assemble(EVERY, True, compiled=compiled, missing_planes=True)
    free = drawn(batch, angle=torch.full((2,), float(degrees), dtype=torch.float64))
    expected, inputs = made_of(assemble, flagged(batch, *flags), compiled), made_of(assemble, free, compiled)
    assert torch.equal(inputs.data, expected.data)
    assert torch.equal(inputs.labels, expected.labels)
    torch.testing.assert_close(inputs.x, expected.x, rtol=1e-4, atol=1e-3)


@PATHS
@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        (0, (10.0, 0.0)),
        (30, (8.660254, -5.0)),
        (45, (7.071068, -7.071068)),
        (120, (-5.0, -8.660254)),
        (-30, (8.660254, 5.0)),
    ],
)
def test_wind_turns_along_and_keeps_its_speed(degrees: float, expected: tuple[float, float], compiled: bool) -> None:
    """10 m/s to the right; turned counter-clockwise it blows upwards, towards smaller rows: v < 0."""
    tile = made.tile(0, cells=4)
    aux = tile.aux.copy()
    aux[COARSE.index(WIND[0])], aux[COARSE.index(WIND[1])] = 35001, 30001
    batch = drawn(collate([replace(tile, aux=aux)], [0]), angle=torch.tensor([float(degrees)], dtype=torch.float64))
    inputs = made_of(Assemble(WIND, compiled=compiled), batch, compiled)
    u, v = (inputs.x[0, i].double().numpy() * CHANNELS[name].std + CHANNELS[name].mean for i, name in enumerate(WIND))
    inside = inputs.data[0, 0].numpy()
    assert inside.sum() > 150
    np.testing.assert_allclose(u[inside], expected[0], atol=1e-3)
    np.testing.assert_allclose(v[inside], expected[1], atol=1e-3)


@PATHS
def test_zooming_out_shrinks_the_tile_into_the_frame(compiled: bool) -> None:
    tile = made.tile(0)
    tile = replace(tile, hh=np.full_like(tile.hh, 801), lab=np.full((3, SIZE, SIZE), 2, np.uint8))
    batch = drawn(collate([tile], [0]), zoom=torch.tensor([2.0], dtype=torch.float64))
    inputs = made_of(Assemble(EVERY, True, compiled=compiled), batch, compiled)
    frame = np.zeros((SIZE, SIZE), bool)
    frame[4:12, 4:12] = True
    np.testing.assert_array_equal(inputs.labels[0].numpy() == 2, np.broadcast_to(frame, (3, SIZE, SIZE)))
    np.testing.assert_array_equal(inputs.data[0, EVERY.index("nersc_sar_primary")].numpy(), frame)
    for name in EVERY:
        if INPUTS[name].grid != "scene":
            assert not inputs.data[0, EVERY.index(name)].numpy()[~frame].any(), name


def test_speckle_has_the_deviation_that_was_drawn_and_is_independent() -> None:
    size = 96
    tile = made.tile(0, size=size)
    flat = np.full_like(tile.hh, 801)
    batch = collate([replace(tile, hh=flat, hv=flat)] * 2, [0, 1])
    noise = {"speckle": torch.tensor([2.0, 0.5]), "noise": torch.tensor([5, 6])}
    names = ("nersc_sar_primary", "nersc_sar_secondary")
    inputs = Assemble(names)(drawn(batch, **noise))
    std = np.array([CHANNELS[name].std for name in names])[:, None, None]
    mean = np.array([CHANNELS[name].mean for name in names])[:, None, None]
    decibels = inputs.x.double().numpy() * std + mean + 20
    for i, expected in enumerate((2.0, 0.5)):
        for j in range(2):
            assert decibels[i, j].mean() == pytest.approx(0, abs=0.05 * expected)
            assert decibels[i, j].std() == pytest.approx(expected, rel=0.03)
            # 68.27 % and 95.45 % of a normal distribution.
            assert (np.abs(decibels[i, j]) < expected).mean() == pytest.approx(0.6827, abs=0.02)
            assert (np.abs(decibels[i, j]) < 2 * expected).mean() == pytest.approx(0.9545, abs=0.01)
    series = np.stack([part.ravel() for part in decibels.reshape(4, size, size)])
    assert np.abs(np.corrcoef(series) - np.eye(4)).max() < 0.05
    # Neighbours along a row, and along a column.
    for step in (1, size):
        assert abs(np.corrcoef(series[0, step:], series[0, :-step])[0, 1]) < 0.05


@PATHS
def test_samples_do_not_depend_on_how_a_batch_is_cut(compiled: bool) -> None:
    """A batch of eight is the same as four of two, with everything drawn; each pair of places is mixed."""
    many = [made.tile(i, cells=3) for i in range(8)]
    augment = Augment(7, True, True, (("hv", 0.4),), 0.5, 0.8, 60, 1.5, 2, 0.3)
    assemble = Assemble(EVERY, True, compiled=compiled, missing_planes=True)
    whole = made_of(assemble, collate(many, range(40, 48), augment), compiled)
    for i in range(0, 8, 2):
        part = made_of(assemble, collate(many[i : i + 2], range(40 + i, 42 + i), augment), compiled)
        for name in ("x", "data", "dropped", "labels"):
            np.testing.assert_allclose(getattr(part, name), getattr(whole, name)[i : i + 2], rtol=1e-6, atol=1e-6)
    assert assemble.missing == GROUPS


@PATHS
@pytest.mark.parametrize("seed", range(4))
def test_no_augmentation_brings_a_label_or_value_where_there_is_no_backscatter(seed: int, compiled: bool) -> None:
    random = np.random.default_rng(seed)
    several = []
    for number in range(6):
        tile = made.tile(number + 10 * seed)
        nothing = random.random(tile.hh.shape) < 0.3
        hh, hv = (np.where(nothing, 0, np.maximum(codes, 1)).astype(np.uint16) for codes in (tile.hh, tile.hv))
        assert tile.lab is not None
        several.append(
            replace(tile, hh=hh, hv=hv, lab=np.where(nothing, 255, np.minimum(tile.lab, 5)).astype(np.uint8))
        )
    augment = Augment(seed, True, True, (("hh", 0.5),), 0.4, 0.9, 180, 2, 3, 0.5)
    assemble = Assemble(("nersc_sar_primary", "nersc_sar_secondary"), True, compiled=compiled, missing_planes=True)
    inputs = made_of(assemble, collate(several, range(6), augment), compiled)
    labelled = (inputs.labels != 255).any(dim=1)
    assert torch.equal(labelled, inputs.data[:, :2].any(dim=1))
    assert torch.equal(labelled, inputs.x[:, 2] > 0)
    assert (inputs.x[:, :2][~inputs.data[:, :2]] == 0).all()
    assert 0 < labelled.sum() < labelled.numel()
    assert inputs.dropped is not None
    lost = inputs.dropped[:, :2, None, None]
    assert torch.equal(inputs.seen[:, 3:] == 1, lost | ~inputs.data[:, :2])
    assert lost.any()


def test_the_compiler_takes_each_function_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything drawn and mixed: one graph each, without a break."""
    graphs: list[int] = []

    def backend(graph: Any, examples: Any) -> Callable[..., Any]:
        graphs.append(len(examples))
        run: Callable[..., Any] = graph.forward
        return run

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, fullgraph=True, dynamic=False, backend=backend)

    batch = collate(tiles(), range(4), replace(AUGMENTS["everything"], cutmix=0.9, drop_groups=(("hv", 0.5),)))
    want = Want(torch.float32, (0, 1))
    expected = Assemble(EVERY, True, want=want, missing_planes=True)(batch)
    monkeypatch.setattr(pixels, "_compiled", compiled)
    assemble = Assemble(EVERY, True, want=want, compiled=True, missing_planes=True)
    planned = assemble.plan(batch)
    inputs = assemble(planned)
    torch.testing.assert_close(inputs.seen, expected.seen, rtol=1e-4, atol=2e-3)
    assert torch.equal(Codes(assemble, planned).valid([0, 1]), expected.valid([0, 1]))
    # Places and planes, places and validity of the targets.
    assert len(graphs) == 4


def test_planes_have_names_in_the_order_in_which_they_are_made() -> None:
    data = DataConfig(channels=("hh", "spacing", "hv", "position_x"), missing_planes=True)
    names = ("nersc_sar_primary", "pixel_spacing", "nersc_sar_secondary", "position_x", "valid")
    assert data.planes == (*names, "missing_hh", "missing_spacing", "missing_hv", "missing_position")
    assert data.in_chans == Assemble.of(data).n_planes == 9
    assert replace(data, missing_planes=False).planes == names
    assert Augment.of(AugmentConfig(), 3) == Augment(3, True, True)
    every = AugmentConfig(False, True, 0.5, 0.1, 20, 1.5, 2, 0.2, {"hv": 0.3, "hh": 0.1})
    assert Augment.of(every, 4) == Augment(4, False, True, (("hh", 0.1), ("hv", 0.3)), 0.5, 0.1, 20, 1.5, 2, 0.2)
