import math
from dataclasses import replace

import made
import numpy as np
import pytest
import torch

from arcticseg.data.augment import Augment
from arcticseg.data.batch import Batch, Draws, collate
from arcticseg.data.inputs import Inputs
from arcticseg.data.tile import Tile, decode_coarse, decode_sar, encode_coarse
from arcticseg.data.transforms import Assemble
from arcticseg.ice.channels import COARSE, GROUPS, INPUTS, expand
from arcticseg.ice.geo import positions, unit_vectors

EVERY = expand(GROUPS)
WIND = ("u10m_rotated", "v10m_rotated")
SIZE = made.SIZE
WHOLE = (0, 0, SIZE)


def seen(first: int, edge: int) -> np.ndarray:
    """Tile coordinates of the input's pixels along an edge of a crop."""
    return np.array([first + (r + 0.5) * edge / SIZE - 0.5 for r in range(SIZE)])


def interpolate(
    values: np.ndarray, rows: np.ndarray, cols: np.ndarray, hold: bool, crop: tuple[int, int, int] = WHOLE
) -> np.ndarray:
    """Bilinear values of a grid [h, w] at every pixel, one axis after the other; NaN wherever a NaN has a weight."""

    def along(points: np.ndarray, lines: np.ndarray, at: np.ndarray) -> np.ndarray:
        out = np.empty((SIZE, lines.shape[1]))
        for r, x in enumerate(np.clip(at, points[0], points[-1]) if hold else at):
            i = min(max(int(np.searchsorted(points, x, side="right")) - 1, 0), len(points) - 2)
            t = (x - points[i]) / (points[i + 1] - points[i])
            low, high = lines[i] * (1 - t) if t != 1 else 0 * lines[i + 1], lines[i + 1] * t if t else 0 * lines[i]
            out[r] = low + high
        return out

    top, left, edge = crop
    return along(cols, along(rows, values, seen(top, edge)).T, seen(left, edge)).T


def valid_mean(
    values: np.ndarray, rows: np.ndarray, cols: np.ndarray, crop: tuple[int, int, int] = WHOLE
) -> np.ndarray:
    """The mean of the valid neighbours, with their bilinear weights."""
    total = interpolate(np.nan_to_num(values), rows, cols, True, crop)
    weight = interpolate(np.isfinite(values).astype(float), rows, cols, True, crop)
    return np.where(weight > 1e-6, total / np.maximum(weight, 1e-6), np.nan)


def nearest(plane: np.ndarray, crop: tuple[int, int, int]) -> np.ndarray:
    """For each pixel, the pixel of the crop in which its centre lies."""
    out = np.empty_like(plane)
    top, left, edge = crop
    for r in range(SIZE):
        for c in range(SIZE):
            # Centres are at odd multiples of half a pixel: whole numbers, so nothing is rounded.
            out[..., r, c] = plane[..., top + (2 * r + 1) * edge // (2 * SIZE), left + (2 * c + 1) * edge // (2 * SIZE)]
    return out


def once(name: str, edge: int) -> float:
    """What a sample of 3 February 2020 at factor 4 has once; pixels of a crop are smaller."""
    turns = {"month": 1.5 / 12, "day": 33.5 / 365.25}
    values = {"month": 2, "day": 34, "pixel_spacing": math.log2(4 * edge / SIZE)}
    values |= {f"{key}_sin": math.sin(2 * math.pi * turn) for key, turn in turns.items()}
    values |= {f"{key}_cos": math.cos(2 * math.pi * turn) for key, turn in turns.items()}
    return values[name]


def oracle(tile: Tile, name: str, crop: tuple[int, int, int] = WHOLE) -> np.ndarray:
    """The channel in its unit at every pixel, float64 [H, W]; NaN = no data."""
    pixels = np.arange(SIZE, dtype=float)
    for channel, codes in (("nersc_sar_primary", tile.hh), ("nersc_sar_secondary", tile.hv)):
        if name == channel:
            decibels = decode_sar(codes).astype(float)
            return np.where(nearest(codes, crop) > 0, valid_mean(decibels, pixels, pixels, crop), np.nan)
    if name == "distance_map":
        zones = nearest(tile.dist, crop)
        return np.where(zones == 255, np.nan, zones)
    if INPUTS[name].grid == "scene":
        return np.full((SIZE, SIZE), once(name, crop[2]), float)
    if name in COARSE:
        return valid_mean(decode_coarse(tile.aux)[COARSE.index(name)], tile.aux_rows, tile.aux_cols, crop)
    if name == "sar_incidenceangle":
        return interpolate(tile.geo[2].astype(float), tile.geo_rows, tile.geo_cols, False, crop)
    vectors = unit_vectors(tile.geo[0].astype(float), tile.geo[1].astype(float))
    between = np.stack(
        [interpolate(vectors[..., i], tile.geo_rows, tile.geo_cols, False, crop) for i in range(3)], axis=-1
    )
    if name.startswith("position_"):
        return between[..., "xyz".index(name[-1])] / np.linalg.norm(between, axis=-1)
    latitude, longitude = positions(between)
    return latitude if name == "sar_grid_latitude" else longitude


def plane(inputs: Inputs, index: int, name: str, channels: tuple[str, ...]) -> np.ndarray:
    """A plane of the network's input in its unit; NaN = no data."""
    i = channels.index(name)
    values = inputs.x[index, i].numpy().astype(float) * INPUTS[name].std + INPUTS[name].mean
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
        values, expected = plane(inputs, i, name, EVERY), oracle(tile, name)
        if name == "sar_grid_longitude":
            values = expected + (values - expected + 180) % 360 - 180
        np.testing.assert_allclose(values, expected, rtol=2e-5, atol=2e-4, err_msg=name)
        assert (inputs.x[i, EVERY.index(name)][~inputs.data[i, EVERY.index(name)]] == 0).all()
    if INPUTS[name].grid not in ("scene", "geo"):
        assert not inputs.data[:, EVERY.index(name)].all() or INPUTS[name].grid == "2km"


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
        channel = INPUTS[COARSE[i]]
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


def test_dropped_planes_are_hidden_from_the_network_alone(tiles: list[Tile]) -> None:
    places = range(3)
    augment = Augment(0, drop_groups=(("amsr2", 0.5), ("hh", 0.5), ("time", 0.5)))
    plain = Assemble(EVERY)(collate(tiles, places))
    inputs = Assemble(EVERY)(collate(tiles, places, augment))
    assert torch.equal(inputs.x, plain.x)
    assert torch.equal(inputs.data, plain.data)
    drops = 0
    for i, place in enumerate(places):
        draws = augment.draw(place, SIZE)["drop"]
        for j, name in enumerate(EVERY):
            lost = bool(draws[GROUPS.index(INPUTS[name].group)])
            drops += lost
            assert bool(inputs.dropped[i, j]) == lost
            assert torch.equal(inputs.seen[i, j], torch.zeros_like(plain.x[i, j]) if lost else plain.x[i, j])
    assert 0 < drops < 3 * len(EVERY)


def drawn(batch: Batch, **changed: object) -> Batch:
    """A batch with these draws; nothing else is drawn."""
    none = torch.zeros(len(batch), dtype=torch.bool)
    nothing = {"crop": None, "transpose": none, "flip_rows": none, "flip_cols": none, "mix": None}
    drop = torch.zeros(len(batch), len(GROUPS), dtype=torch.bool)
    return replace(batch, draws=Draws(**nothing | {"drop": drop} | changed))  # type: ignore[arg-type]


def flagged(batch: Batch, *flags: bool) -> Batch:
    names = ("transpose", "flip_rows", "flip_cols")
    return drawn(batch, **{name: torch.full((len(batch),), flag) for name, flag in zip(names, flags, strict=True)})


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

    # A mirror image, turned once, is a transposition, and so on.
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
    # The wind, which changes with the image's axes, is tested in `test_vectors`.
    still = [i for i, name in enumerate((*EVERY, "valid")) if name not in WIND]
    np.testing.assert_array_equal(turned.data[:, still].numpy(), by_numpy(plain.data[:, still]))
    np.testing.assert_allclose(turned.x[:, still].numpy(), by_numpy(plain.x[:, still]), rtol=1e-5, atol=1e-5)


def test_each_sample_has_its_own_orientation(tiles: list[Tile]) -> None:
    augment = Augment(5, flips=True, quarter_turns=True)
    places = range(20)
    many = [tiles[place % 3] for place in places]
    plain = Assemble(EVERY)(collate(many, places))
    turned = Assemble(EVERY)(collate(many, places, augment))
    for i, place in enumerate(places):
        draws = augment.draw(place, SIZE)
        expected = plain.labels[i].numpy()
        if draws["transpose"]:
            expected = expected.transpose(0, 2, 1)
        if draws["flip_rows"]:
            expected = expected[:, ::-1]
        if draws["flip_cols"]:
            expected = expected[:, :, ::-1]
        np.testing.assert_array_equal(turned.labels[i].numpy(), expected)
    assert torch.equal(turned.place, torch.arange(20))


CROPS = [(2, 5, 7), (0, 0, 16), (7, 1, 9)]


@pytest.mark.parametrize("name", EVERY)
def test_crops_hold_what_the_tile_holds_there(tiles: list[Tile], name: str) -> None:
    """Each crop alone, then with flips and turns, which numpy applies afterwards."""
    batch = collate(tiles, range(3))
    cropped = Assemble(EVERY)(drawn(batch, crop=torch.tensor(CROPS)))
    flags = {"transpose": [True, False, True], "flip_rows": [False, True, True], "flip_cols": [False, True, False]}
    turned = Assemble(EVERY)(
        drawn(batch, crop=torch.tensor(CROPS), **{key: torch.tensor(flag) for key, flag in flags.items()})
    )
    for i, (tile, crop) in enumerate(zip(tiles, CROPS, strict=True)):
        own = {key: flag[i] for key, flag in flags.items()}
        before, after = oracle(tile, name, crop), oracle(with_turned_wind(tile, **own), name, crop)
        labels = nearest(np.full((3, SIZE, SIZE), 255, np.uint8) if tile.lab is None else tile.lab, crop)
        for inputs, expected in ((cropped, before), (turned, by_flags(after, own))):
            values = plane(inputs, i, name, EVERY)
            if name == "sar_grid_longitude":
                values = expected + (values - expected + 180) % 360 - 180
            np.testing.assert_allclose(values, expected, rtol=3e-5, atol=3e-4, err_msg=name)
            np.testing.assert_array_equal(inputs.labels[i].numpy(), labels)
            labels = by_flags(labels, own)


def with_turned_wind(tile: Tile, transpose: bool, flip_rows: bool, flip_cols: bool) -> Tile:
    """The tile, not turned, with its wind in m/s along the axes that it will have once it is turned."""
    values = decode_coarse(tile.aux)
    u, v = (COARSE.index(name) for name in WIND)
    across, down = values[[v, u] if transpose else [u, v]]
    values[u], values[v] = -across if flip_cols else across, -down if flip_rows else down
    return replace(tile, aux=encode_coarse(values))


def by_flags(planes: np.ndarray, flags: dict[str, bool]) -> np.ndarray:
    planes = planes.swapaxes(-1, -2) if flags["transpose"] else planes
    planes = planes[..., ::-1, :] if flags["flip_rows"] else planes
    return planes[..., ::-1] if flags["flip_cols"] else planes


def test_a_whole_crop_changes_nothing(tiles: list[Tile]) -> None:
    batch = collate(tiles, range(3))
    whole = Assemble(EVERY, valid_plane=True)(drawn(batch, crop=torch.tensor([[0, 0, SIZE]] * 3)))
    plain = Assemble(EVERY, valid_plane=True)(batch)
    assert torch.equal(whole.labels, plain.labels)
    assert torch.equal(whole.data, plain.data)
    np.testing.assert_allclose(whole.x, plain.x, rtol=1e-5, atol=1e-5)


def test_partners_exchange_their_boxes() -> None:
    four = [made.tile(i, cells=3) for i in range(4)]
    batch = collate(four, range(4))
    assemble = Assemble(EVERY, valid_plane=True)
    # The samples of the first pair have a box each; the second pair exchanges nothing.
    boxes = torch.tensor([[2, 9, 0, 16], [1, 4, 5, 6], [0, 0, 0, 0], [3, 3, 1, 9]])
    plain, mixed = assemble(batch), assemble(drawn(batch, mix=boxes))
    for name in ("x", "data", "labels"):
        expected = getattr(plain, name).numpy().copy()
        whole = getattr(plain, name).numpy()
        for i, (top, bottom, left, right) in enumerate(boxes.tolist()):
            expected[i, :, top:bottom, left:right] = whole[i ^ 1, :, top:bottom, left:right]
        np.testing.assert_array_equal(getattr(mixed, name).numpy(), expected)
    assert not torch.equal(mixed.labels[:2], plain.labels[:2])
    assert torch.equal(mixed.labels[2:], plain.labels[2:])


def test_augmented_batches_do_not_depend_on_how_they_are_cut() -> None:
    """A batch of eight is the same as four batches of two, pixel for pixel."""
    many = [made.tile(i, cells=3) for i in range(8)]
    augment = Augment(7, True, True, (("hv", 0.4),), crop=0.5, cutmix=0.8)
    assemble = Assemble(EVERY, valid_plane=True)
    whole = assemble(collate(many, range(40, 48), augment))
    for i in range(0, 8, 2):
        part = assemble(collate(many[i : i + 2], range(40 + i, 42 + i), augment))
        for name in ("x", "data", "dropped", "labels"):
            np.testing.assert_allclose(getattr(part, name), getattr(whole, name)[i : i + 2], rtol=1e-6, atol=1e-6)
