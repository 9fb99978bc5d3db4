"""Wind turns with the image."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import made
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from arcticseg import config as configs
from arcticseg.data import pixels
from arcticseg.data.augment import Augment
from arcticseg.data.batch import Batch, collate
from arcticseg.data.config import DataConfig
from arcticseg.data.inputs import Want
from arcticseg.data.tile import Tile, cut
from arcticseg.data.transforms import Assemble
from arcticseg.errors import ConfigError
from arcticseg.ice.channels import CHANNELS, COARSE, GROUPS, INPUTS, expand
from arcticseg.ice.geo import GeoGrid
from arcticseg.ice.indexed import index_planes
from arcticseg.ice.layers import Layers
from tests.unit.data.imagined import layers_of
from tests.unit.data.test_transforms import drawn, flagged

WIND = ("u10m_rotated", "v10m_rotated")
EVERY = expand(GROUPS)
SIZE = 96
EIGHT = list(product((False, True), repeat=3))


def square(seed: int = 0) -> Layers:
    """A scene of 400 x 400 pixels whose grids are symmetric about its centre, with holes, wind in all directions."""
    layers = layers_of((400, 400), 4, seed)
    coarse = layers.coarse.copy()
    random = np.random.default_rng(seed)
    for name in WIND:
        coarse[COARSE.index(name)] = random.uniform(-25, 25, coarse.shape[1:])
        coarse[COARSE.index(name)][random.random(coarse.shape[1:]) < 0.2] = np.nan
    return replace(layers, coarse=coarse)


def turned(layers: Layers, transpose: bool, flip_rows: bool, flip_cols: bool) -> Layers:
    """The scene as if seen with its axes exchanged and reversed: in physical units, before a cut."""

    def of(planes: np.ndarray) -> np.ndarray:
        planes = planes.swapaxes(-1, -2) if transpose else planes
        planes = planes[..., ::-1, :] if flip_rows else planes
        return np.ascontiguousarray(planes[..., ::-1] if flip_cols else planes)

    coarse = of(layers.coarse)
    u, v = (of(layers.coarse[COARSE.index(name)]) for name in WIND)
    # A vector (across, down): with rows as columns it is (down, across); a reversed axis counts the other way.
    across, down = (v, u) if transpose else (u, v)
    coarse[COARSE.index(WIND[0])] = -across if flip_cols else across
    coarse[COARSE.index(WIND[1])] = -down if flip_rows else down
    geo, last = layers.geo, 399.0
    lines, samples = (geo.samples, geo.lines) if transpose else (geo.lines, geo.samples)
    lines = (last - lines)[::-1] if flip_rows else lines
    samples = (last - samples)[::-1] if flip_cols else samples
    labels = layers.labels
    assert labels is not None
    return replace(
        layers,
        sar={name: of(values) for name, values in layers.sar.items()},
        distance=of(layers.distance),
        chart=index_planes(of(labels)),
        coarse=coarse,
        geo=GeoGrid(lines, samples, of(geo.latitude), of(geo.longitude), of(geo.incidence)),
    )


def tile_of(layers: Layers) -> Tile:
    """The middle of the scene, whose window is the same for all orientations."""
    return cut(layers, 2, 2, SIZE)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("transpose", "flip_rows", "flip_cols"), EIGHT)
def test_a_turned_sample_is_the_turned_scene(
    transpose: bool, flip_rows: bool, flip_cols: bool, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every channel, labels and where there is data: turned as a sample, and turned before the scene is cut."""
    monkeypatch.setattr(pixels, "_compiled", lambda function: function)
    assemble = Assemble(EVERY, valid_plane=True, compiled=compiled)
    for seed in range(3):
        layers = square(seed)
        batch = flagged(collate([tile_of(layers)], [0]), transpose, flip_rows, flip_cols)
        batch = assemble.plan(batch) if compiled else batch
        inputs, expected = assemble(batch), assemble(collate([tile_of(turned(layers, *flags_of(batch)))], [0]))
        assert torch.equal(inputs.data, expected.data)
        assert torch.equal(inputs.labels, expected.labels)
        for plane, name in enumerate(EVERY):
            step = INPUTS[name].scale / INPUTS[name].std
            torch.testing.assert_close(inputs.x[0, plane], expected.x[0, plane], rtol=1e-4, atol=max(2e-3, step))
    wind = [EVERY.index(name) for name in WIND]
    assert not torch.allclose(inputs.x[0, wind], assemble(collate([tile_of(layers)], [0])).x[0, wind]) or not any(
        (transpose, flip_rows, flip_cols)
    )


def flags_of(batch: Batch) -> tuple[bool, bool, bool]:
    """Transposition and flips of the first sample."""
    assert batch.draws is not None
    return tuple(bool(flag[0]) for flag in (batch.draws.transpose, batch.draws.flip_rows, batch.draws.flip_cols))  # type: ignore[return-value]


def uniform(u: int, v: int, cells: int = 4) -> Tile:
    """A tile with the same wind codes in every cell."""
    tile = made.tile(0, cells=cells)
    aux = tile.aux.copy()
    aux[COARSE.index(WIND[0])], aux[COARSE.index(WIND[1])] = u, v
    return replace(tile, aux=aux)


def metres_per_second(assemble: Assemble, batch: Batch) -> np.ndarray:
    """u and v of every pixel in m/s, float64 [B, 2, H, W]; NaN = no data."""
    inputs = assemble(batch)
    values = np.stack(
        [inputs.x[:, i].double().numpy() * CHANNELS[name].std + CHANNELS[name].mean for i, name in enumerate(WIND)],
        axis=1,
    )
    return np.where(inputs.data[:, :2].numpy(), values, np.nan)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((False, False, False), (10, 3)),
        ((False, False, True), (-10, 3)),
        ((False, True, False), (10, -3)),
        ((True, False, False), (3, 10)),
        ((True, True, False), (3, -10)),
        ((True, False, True), (-3, 10)),
        ((False, True, True), (-10, -3)),
        ((True, True, True), (-3, -10)),
    ],
)
def test_signs_by_hand(flags: tuple[bool, bool, bool], expected: tuple[float, float]) -> None:
    """10 m/s towards growing samples, 3 m/s towards growing lines; the mean by which values are normalised is not 0."""
    batch = collate([uniform(35001, 31501)], [0])
    wind = metres_per_second(Assemble(WIND), flagged(batch, *flags))
    np.testing.assert_allclose(wind[0], np.broadcast_to(np.array(expected)[:, None, None], wind[0].shape), atol=1e-3)


def test_a_missing_component_moves_with_a_turn() -> None:
    batch = collate([uniform(35001, 0)], [0])
    for flags in EIGHT:
        wind = metres_per_second(Assemble(WIND), flagged(batch, *flags))
        lacking, there = (0, 1) if flags[0] else (1, 0)
        assert np.isnan(wind[0, lacking]).all()
        assert (np.abs(wind[0, there]) > 9.9).all()


def test_partners_of_a_mix_keep_their_own_turns() -> None:
    """CutMix: each part has the wind of its own sample, turned as that sample is."""
    batch = collate([uniform(35001, 31501), uniform(20001, 30001)], [0, 1])
    box = torch.tensor([[2, 9, 0, 16], [1, 4, 5, 6]])
    flags = {"transpose": [True, False], "flip_rows": [False, False], "flip_cols": [False, True]}
    mixed = drawn(batch, mix=box, **{name: torch.tensor(flag) for name, flag in flags.items()})
    wind = metres_per_second(Assemble(WIND), mixed)
    own = np.array([[3.0, 10.0], [20.0, 0.0]])
    for i, (top, bottom, left, right) in enumerate(box.tolist()):
        inside = np.zeros(wind.shape[2:], bool)
        inside[top:bottom, left:right] = True
        for k in range(2):
            np.testing.assert_allclose(wind[i, k], np.where(inside, own[1 - i, k], own[i, k]), atol=1e-3)


def test_the_opposite_of_a_code_is_exact() -> None:
    """Up to 60 m/s, beyond which the code for the opposite ends."""
    for code in (1, 2, 29999, 30001, 60000, 60001, 65535):
        batch = collate([uniform(code, 1)], [0])
        wind = metres_per_second(Assemble(WIND), flagged(batch, False, False, True))
        assert wind[0, 0, 0, 0] == pytest.approx(max(60 - 0.002 * (code - 1), -60), abs=1e-4)


def test_a_component_without_its_partner_has_no_data_where_it_would_be_needed() -> None:
    batch = collate([uniform(35001, 31501)] * 2, [0, 1])
    alone = replace(batch, coarse=WIND[:1], aux=batch.aux[:, COARSE.index(WIND[0])][:, None])
    half = drawn(alone, transpose=torch.tensor([False, True]), flip_cols=torch.tensor([True, True]))
    inputs = Assemble(WIND[:1])(half)
    assert inputs.data[0].all()
    assert not inputs.data[1].any()
    assert (inputs.x[1] == 0).all()


def test_configs_refuse_half_a_vector_that_is_turned() -> None:
    with pytest.raises(ConfigError, match=r"channels.*name both of u10m_rotated, v10m_rotated, or .*quarter_turns"):
        configs.build(DataConfig, {"channels": ["hh", "v10m_rotated"]})
    configs.build(DataConfig, {"channels": ["hh", "v10m_rotated"], "augment": {"quarter_turns": False}})
    configs.build(DataConfig, {"channels": ["hh", "v10m_rotated", "u10m_rotated"]})
    configs.build(DataConfig, {"channels": ["hh", "t2m"]})


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_no_augmentation_brings_a_label_where_there_is_no_backscatter(
    seed: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crops, turns, dropped channels and mixed samples: where a label is, its pixel has backscatter."""
    monkeypatch.setattr(pixels, "_compiled", lambda function: function)
    random = np.random.default_rng(seed)
    tiles = []
    for number in range(6):
        tile = made.tile(number + 10 * seed)
        nothing = random.random(tile.hh.shape) < 0.3
        hh, hv = (np.where(nothing, 0, np.maximum(codes, 1)).astype(np.uint16) for codes in (tile.hh, tile.hv))
        assert tile.lab is not None
        tiles.append(replace(tile, hh=hh, hv=hv, lab=np.where(nothing, 255, np.minimum(tile.lab, 5)).astype(np.uint8)))
    augment = Augment(seed, True, True, (("hh", 0.5), ("hv", 0.5)), crop=0.4, cutmix=0.9)
    channels = ("nersc_sar_primary", "nersc_sar_secondary")
    assemble = Assemble(channels, valid_plane=True, want=Want(), compiled=compiled)
    batch = collate(tiles, range(6), augment)
    inputs = assemble(assemble.plan(batch) if compiled else batch)
    labelled = (inputs.labels != 255).any(dim=1)
    assert torch.equal(labelled, inputs.data[:, :2].any(dim=1))
    assert torch.equal(labelled, inputs.x[:, -1] > 0)
    assert 0 < labelled.sum() < labelled.numel()
