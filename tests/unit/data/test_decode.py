import io
import tarfile
from dataclasses import replace

import made
import numpy as np
import pytest

from arcticseg.data.decode import Layout
from arcticseg.data.sample import CORE, decode, encode, split_members
from arcticseg.data.tile import Tile
from arcticseg.errors import ShardError
from arcticseg.ice.channels import COARSE, GROUPS, SAR, expand

EVERY = expand(GROUPS)


def packed(tile: Tile, core: bool = False) -> bytes:
    """The tile's range of a shard, or its core."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in sorted(encode(tile).items()):
            if not core or name >= CORE:
                member = tarfile.TarInfo(f"{tile.key}.{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        end = tar.offset
    return stream.getvalue()[:end]


def decoded(tile: Tile, layout: Layout, core: bool = False, before: Tile | None = None) -> dict[str, np.ndarray]:
    """The arrays of a tile, decoded into memory that held another sample or nothing."""
    memory = memoryview(bytearray(layout.bytes(2)))
    views = layout.views(memory, 2)
    decoder = layout.decoders(views)[1]
    for sample in (before, tile):
        if sample is not None:
            decoder.open(packed(sample, core))
            decoder.finish()
    return {name: array[1] for name, array in views.items()}


@pytest.mark.parametrize("cells", [0, 2, 4])
@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("before", [None, 1, 4])
def test_arrays_hold_the_tile(cells: int, labelled: bool, before: int | None) -> None:
    tile = made.tile(5, cells=cells, labelled=labelled)
    other = None if before is None else made.tile(6, cells=before)
    arrays = decoded(tile, Layout.of(made.SIZE, [4, 2], EVERY), before=other)
    expected = decode(*split_members(packed(tile)))
    for name in ("hh", "hv", "dist"):
        np.testing.assert_array_equal(arrays[name], getattr(expected, name))
    for name in ("aux", "geo"):
        values = getattr(expected, name)
        h, w = values.shape[1:]
        np.testing.assert_array_equal(arrays[name][:, :h, :w], values)
        assert arrays[name].sum(dtype=np.float64) == pytest.approx(values.sum(dtype=np.float64))
        for axis, n in (("rows", h), ("cols", w)):
            points = arrays[f"{name}_{axis}"]
            np.testing.assert_array_equal(points[:n], getattr(expected, f"{name}_{axis}"))
            assert (points[n:] == np.inf).all()
    assert arrays["clock"].tolist() == [2, 34]
    assert arrays["spacing"].tolist() == [expected.pixel_spacing]
    np.testing.assert_array_equal(arrays["lab"], 255 if expected.lab is None else expected.lab)


def test_computed_channels_need_what_they_are_computed_from() -> None:
    bare = Layout.of(made.SIZE, [4], ("nersc_sar_primary", "day_sin", "pixel_spacing"))
    assert bare.core_only
    assert not bare.geo
    assert Layout.of(made.SIZE, [4], ("nersc_sar_primary", "position_z")).geo
    assert Layout.of(made.SIZE, [4], ("nersc_sar_primary",), angles=True).geo


def test_only_what_channels_need_is_decoded() -> None:
    tile = made.tile(5)
    layout = Layout.of(made.SIZE, [4], ("nersc_sar_secondary", "t2m", "btemp_6_9v"), valid_plane=False, labels=False)
    # Members that no channel needs may hold anything.
    spoilt = replace(tile, dist=tile.dist + 1, hh=tile.hh + 1)
    arrays = decoded(spoilt, layout)
    assert layout.coarse == ("btemp_6_9v", "t2m")
    assert arrays["hh"].size == arrays["dist"].size == arrays["geo"].size == arrays["lab"].size == 0
    np.testing.assert_array_equal(arrays["hv"], tile.hv)
    for i, name in enumerate(layout.coarse):
        np.testing.assert_array_equal(arrays["aux"][i, :3, :4], tile.aux[COARSE.index(name)])
    assert layout.bytes(1) < Layout.of(made.SIZE, [4], EVERY).bytes(1)


def test_the_core_is_enough_for_sar_and_labels() -> None:
    tile = made.tile(5)
    layout = Layout.of(made.SIZE, [4], (*SAR.values(), "month"))
    assert layout.core_only
    arrays = decoded(tile, layout, core=True)
    np.testing.assert_array_equal(arrays["hh"], tile.hh)
    np.testing.assert_array_equal(arrays["lab"], tile.lab)
    for channel in ("distance_map", "sar_incidenceangle", "tclw"):
        assert not Layout.of(made.SIZE, [4], (*SAR.values(), channel)).core_only


@pytest.mark.parametrize("size", [16, 33, 384])
@pytest.mark.parametrize("factor", [1, 2, 5, 10])
def test_there_is_room_for_every_window_of_the_2_km_grid(size: int, factor: int) -> None:
    """At each offset of a tile from the grid: cells around its first and last pixel, counted singly."""
    spacing = 40 * factor
    largest = 0
    for offset in range(0, 4000, 7):
        centres = [(i + 0.5) * 2000 - offset - spacing / 2 for i in range(-3, size * spacing // 2000 + 6)]
        inside = [i for i, at in enumerate(centres) if 0 <= at <= (size - 1) * spacing]
        below = [i for i, at in enumerate(centres) if at <= 0]
        above = [i for i, at in enumerate(centres) if at >= (size - 1) * spacing]
        largest = max(largest, len({*inside, below[-1], above[0]}))
    room = Layout.of(size, [factor, 1], EVERY).cells
    assert largest <= room <= largest + 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"aux": made.tile(0, cells=9).aux, "aux_rows": np.arange(9.0), "aux_cols": np.arange(10.0)},
            r"aux\.b2 .*9 x 10",
        ),
        ({"geo": np.zeros((3, 2, 40)), "geo_cols": np.arange(40.0)}, r"geo\.bin .*2 x 40 .* 32 x 32"),
        (dict.fromkeys(("hh", "hv"), np.zeros((8, 8), np.uint16)), r"json .*\(8, 8\) .* 16"),
        ({"aux": made.tile(0).aux[:, :2]}, r"aux\.b2 .*320 bytes"),
        ({"dist": np.zeros((16, 15), np.uint8)}, r"dist\.zst .*240 bytes"),
    ],
)
def test_what_does_not_fit_is_an_error(change: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ShardError, match=f"^sample scene.* member {message}"):
        decoded(replace(made.tile(0), **change), Layout.of(made.SIZE, [4], EVERY))


def test_a_blank_row_has_no_data() -> None:
    layout = Layout.of(made.SIZE, [4], EVERY)
    views = layout.views(memoryview(bytearray(b"\xa5" * layout.bytes(1))), 1)
    layout.decoders(views)[0].blank()
    arrays = {name: array[0] for name, array in views.items()}
    assert not any(arrays[name].any() for name in ("hh", "hv", "aux", "geo"))
    assert (arrays["dist"] == 255).all()
    assert (arrays["lab"] == 255).all()
    assert np.isinf(arrays["aux_rows"]).all()
    assert np.isnan(arrays["clock"]).all()


def test_a_window_cut_short_leaves_nothing_behind() -> None:
    """A process that is killed while it decodes leaves points that cover what it wrote; the next clears it."""
    layout = Layout.of(made.SIZE, [4], EVERY)
    views = layout.views(memoryview(bytearray(layout.bytes(1))), 1)
    decoder = layout.decoders(views)[0]
    decoder.open(packed(made.tile(0, cells=1)))
    decoder.finish()
    decoder.open(packed(made.tile(1, cells=4)))
    views["aux"][0, :, :4, :2] = 7  # in part
    other = layout.decoders(views)[0]
    other.open(packed(made.tile(2, cells=2)))
    other.finish()
    expected = decode(*split_members(packed(made.tile(2, cells=2)))).aux
    np.testing.assert_array_equal(views["aux"][0][:, :2, : expected.shape[2]], expected)
    assert views["aux"].sum(dtype=np.int64) == expected.sum(dtype=np.int64)
