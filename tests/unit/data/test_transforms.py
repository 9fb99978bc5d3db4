from dataclasses import replace

import made
import numpy as np
import pytest
import torch

from arcticseg.data.batch import Augment, Batch, collate
from arcticseg.data.sample import Tile, decode_coarse, decode_sar
from arcticseg.data.transforms import Assemble, Inputs
from arcticseg.ice.channels import CHANNELS, COARSE, GROUPS, expand
from arcticseg.ice.geo import positions, unit_vectors

EVERY = expand(GROUPS)
SIZE = made.SIZE


def interpolate(values: np.ndarray, rows: np.ndarray, cols: np.ndarray, hold: bool) -> np.ndarray:
    """Bilinear values of a grid [h, w] at every pixel, one axis after the other; NaN wherever a NaN takes part."""
    at = np.arange(SIZE, dtype=float)

    def along(points: np.ndarray, lines: np.ndarray) -> np.ndarray:
        out = np.empty((SIZE, lines.shape[1]))
        for r, x in enumerate(np.clip(at, points[0], points[-1]) if hold else at):
            i = min(max(int(np.searchsorted(points, x, side="right")) - 1, 0), len(points) - 2)
            t = (x - points[i]) / (points[i + 1] - points[i])
            low, high = lines[i] * (1 - t) if t != 1 else 0 * lines[i + 1], lines[i + 1] * t if t else 0 * lines[i]
            out[r] = low + high
        return out

    return along(cols, along(rows, values).T).T


def oracle(tile: Tile, name: str) -> np.ndarray:
    """The channel in its unit at every pixel, float64 [H, W]; NaN = no data."""
    if name == "nersc_sar_primary":
        return decode_sar(tile.hh).astype(float)
    if name == "nersc_sar_secondary":
        return decode_sar(tile.hv).astype(float)
    if name == "distance_map":
        return np.where(tile.dist == 255, np.nan, tile.dist)
    if name in ("month", "day"):
        return np.full((SIZE, SIZE), {"month": 2, "day": 34}[name], float)
    if name in COARSE:
        # The mean of the valid neighbours, with their bilinear weights.
        values = decode_coarse(tile.aux)[COARSE.index(name)]
        there = np.isfinite(values).astype(float)
        total = interpolate(np.nan_to_num(values), tile.aux_rows, tile.aux_cols, hold=True)
        weight = interpolate(there, tile.aux_rows, tile.aux_cols, hold=True)
        return np.where(weight > 1e-6, total / np.maximum(weight, 1e-6), np.nan)
    if name == "sar_incidenceangle":
        return interpolate(tile.geo[2].astype(float), tile.geo_rows, tile.geo_cols, hold=False)
    vectors = unit_vectors(tile.geo[0].astype(float), tile.geo[1].astype(float))
    between = np.stack(
        [interpolate(vectors[..., i], tile.geo_rows, tile.geo_cols, hold=False) for i in range(3)], axis=-1
    )
    latitude, longitude = positions(between)
    return latitude if name == "sar_grid_latitude" else longitude


def plane(inputs: Inputs, index: int, name: str, channels: tuple[str, ...]) -> np.ndarray:
    """A plane of the network's input brought back to its unit; NaN = no data."""
    i = channels.index(name)
    values = inputs.x[index, i].numpy().astype(float) * CHANNELS[name].std + CHANNELS[name].mean
    return np.where(inputs.data[index, i].numpy(), values, np.nan)


@pytest.fixture(scope="module")
def tiles() -> list[Tile]:
    return [made.tile(0, cells=3), made.tile(1, cells=5), made.tile(2, cells=2, labelled=False)]


@pytest.mark.parametrize("name", EVERY)
def test_each_plane_is_what_the_tile_holds(tiles: list[Tile], name: str) -> None:
    inputs = Assemble(EVERY)(collate(tiles, range(3)))
    assert inputs.x.shape == (3, len(EVERY), SIZE, SIZE)
    assert inputs.x.dtype == torch.float32
    for i, tile in enumerate(tiles):
        found, expected = plane(inputs, i, name, EVERY), oracle(tile, name)
        if name == "sar_grid_longitude":
            found = expected + (found - expected + 180) % 360 - 180
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-4, err_msg=name)
        assert (inputs.x[i, EVERY.index(name)][~inputs.data[i, EVERY.index(name)]] == 0).all()
    if name not in ("month", "day", "sar_incidenceangle", "sar_grid_latitude", "sar_grid_longitude"):
        assert not inputs.data[:, EVERY.index(name)].all() or CHANNELS[name].grid == "2km"


def test_cells_without_data_leave_a_hole_and_spoil_no_neighbour() -> None:
    tile = made.tile(0, cells=4)
    aux = np.full_like(tile.aux, 20_000)
    aux[:, 1, 2] = 0
    aux[3] = 0  # one channel has nothing at all
    tile = replace(tile, aux=aux, aux_rows=np.array([0.0, 5, 10, 15]), aux_cols=np.array([0.0, 4, 8, 12, 16]))
    inputs = Assemble(COARSE)(collate([tile], [0]))
    there = inputs.data[0].numpy()
    assert not there[3].any()
    for i in (0, 7, 19):
        # Only the pixel on the missing cell itself has no valid neighbour.
        assert np.argwhere(~there[i]).tolist() == [[5, 8]]
        channel = CHANNELS[COARSE[i]]
        value = (channel.offset + channel.scale * 19_999 - channel.mean) / channel.std
        np.testing.assert_allclose(inputs.x[0, i].numpy()[there[i]], value, rtol=1e-5)
    assert torch.isfinite(inputs.x).all()


def test_a_scene_without_weather_is_a_normal_input() -> None:
    tiles = [made.tile(0, cells=0), made.tile(1, cells=3)]
    inputs = Assemble(("nersc_sar_primary", "t2m"))(collate(tiles, [0, 1]))
    assert not inputs.data[0, 1].any()
    assert inputs.data[1, 1].any()
    alone = Assemble(("nersc_sar_primary", "t2m"))(collate(tiles[:1], [0]))
    assert not alone.data[0, 1].any()
    assert (alone.x[0, 1] == 0).all()


def test_missing_angles_and_times() -> None:
    geo = made.tile(0).geo.copy()
    geo[2, 0, 0] = np.nan
    tile = replace(made.tile(0), geo=geo, time=None)
    channels = ("sar_incidenceangle", "sar_grid_latitude", "month")
    inputs = Assemble(channels)(collate([tile], [0]))
    assert torch.isfinite(inputs.x).all()
    assert not inputs.data[0, 2].any()
    assert inputs.data[0, 1].all()
    # The angle is unknown exactly where the missing point would have taken part: left of the second column of points.
    expected = np.isfinite(interpolate(geo[2].astype(float), tile.geo_rows, tile.geo_cols, hold=False))
    np.testing.assert_array_equal(inputs.data[0, 0].numpy(), expected)
    assert 0 < expected.sum() < expected.size


def test_extrapolated_angles_need_all_their_points() -> None:
    geo = made.tile(0).geo.copy()
    geo[2, :, 1] = np.nan
    # All points lie left of the tile, whose pixels get weights beyond 1 of the last and below 0 of the middle one.
    tile = replace(made.tile(0), geo=geo, geo_cols=np.array([-9.0, -6.0, -3.0]))
    assert not Assemble(("sar_incidenceangle",))(collate([tile], [0])).data.any()


def test_the_valid_plane_is_where_some_polarisation_has_data() -> None:
    tile = made.tile(0)
    hv = tile.hv.copy()
    hv[:8] = 0
    tile = replace(tile, hv=hv)
    assemble = Assemble(("nersc_sar_primary", "nersc_sar_secondary"), valid_plane=True)
    inputs = assemble(collate([tile], [0], Augment(drop_groups=(("hh", 0.999),))))
    assert assemble.n_planes == inputs.x.shape[1] == 3
    np.testing.assert_array_equal(inputs.x[0, 2].numpy(), (tile.hh > 0) | (tile.hv > 0))
    assert inputs.data[0, 2].all()
    assert not inputs.dropped[0, 2]


def test_statistics_may_be_the_shards_own(tiles: list[Tile]) -> None:
    batch = collate(tiles, range(3))
    inputs = Assemble(("nersc_sar_primary", "t2m"), statistics={"nersc_sar_primary": (-10.0, 2.0)})(batch)
    expected = np.nan_to_num((decode_sar(tiles[0].hh) + 10) / 2)
    np.testing.assert_allclose(inputs.x[0, 0].numpy(), expected, atol=1e-4)
    np.testing.assert_array_equal(inputs.x[:, 1], Assemble(("t2m",))(batch).x[:, 0])
    # A channel that never varies is 0, not infinite.
    constant = Assemble(("distance_map",), statistics={"distance_map": (5.0, 0.0)})(batch)
    assert torch.isfinite(constant.x).all()


def test_dropped_planes_are_kept_from_the_network_alone(tiles: list[Tile]) -> None:
    places = range(3)
    augment = Augment(0, drop_groups=(("amsr2", 0.5), ("hh", 0.5), ("time", 0.5)))
    plain = Assemble(EVERY)(collate(tiles, places))
    inputs = Assemble(EVERY)(collate(tiles, places, augment))
    assert torch.equal(inputs.x, plain.x)
    assert torch.equal(inputs.data, plain.data)
    drops = 0
    for i, place in enumerate(places):
        drawn = augment.draw(place)["drop"]
        for j, name in enumerate(EVERY):
            lost = bool(drawn[GROUPS.index(CHANNELS[name].group)])
            drops += lost
            assert bool(inputs.dropped[i, j]) == lost
            assert torch.equal(inputs.seen[i, j], torch.zeros_like(plain.x[i, j]) if lost else plain.x[i, j])
    assert 0 < drops < 3 * len(EVERY)


def flagged(batch: Batch, transpose: bool, flip_rows: bool, flip_cols: bool) -> Batch:
    flags = {"transpose": transpose, "flip_rows": flip_rows, "flip_cols": flip_cols}
    return replace(batch, **{name: torch.full((len(batch),), flag) for name, flag in flags.items()})


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_planes_data_and_labels_are_turned_together(tiles: list[Tile], turns: int, mirrored: bool) -> None:
    """Each of the eight orientations equals numpy's rot90 after fliplr."""
    batch = collate(tiles, range(3))
    assemble = Assemble(EVERY, valid_plane=True)
    plain = assemble(batch)

    def by_numpy(array: torch.Tensor) -> np.ndarray:
        values = array.numpy()
        return np.rot90(values[..., ::-1] if mirrored else values, turns, axes=(2, 3))

    # A mirror image turned once is a transposition, and so on.
    flags = {
        (0, False): (False, False, False),
        (1, False): (True, True, False),
        (2, False): (False, True, True),
        (3, False): (True, False, True),
        (0, True): (False, False, True),
        (1, True): (True, False, False),
        (2, True): (False, True, False),
        (3, True): (True, True, True),
    }[turns, mirrored]
    turned = assemble(flagged(batch, *flags))
    np.testing.assert_array_equal(turned.labels.numpy(), by_numpy(plain.labels))
    np.testing.assert_array_equal(turned.data.numpy(), by_numpy(plain.data))
    np.testing.assert_allclose(turned.x.numpy(), by_numpy(plain.x), atol=1e-6)


def test_each_sample_has_its_own_orientation(tiles: list[Tile]) -> None:
    augment = Augment(5, flips=True, quarter_turns=True)
    places = range(20)
    many = [tiles[place % 3] for place in places]
    plain = Assemble(EVERY)(collate(many, places))
    turned = Assemble(EVERY)(collate(many, places, augment))
    for i, place in enumerate(places):
        drawn = augment.draw(place)
        expected = plain.labels[i].numpy()
        if drawn["transpose"]:
            expected = expected.transpose(0, 2, 1)
        if drawn["flip_rows"]:
            expected = expected[:, ::-1]
        if drawn["flip_cols"]:
            expected = expected[:, :, ::-1]
        np.testing.assert_array_equal(turned.labels[i].numpy(), expected)
    assert torch.equal(turned.place, torch.arange(20))
