import io
import json
import tarfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import webdataset
from imagined import layers_of

from arcticseg.data import sample
from arcticseg.data.sample import decode, encode
from arcticseg.data.tile import Tile, cut, decode_sar
from arcticseg.errors import ShardError
from arcticseg.ice.layers import read_layers
from arcticseg.ice.scenes.open import open_scene
from tests import scenes

SIZE = 64


def assert_same(a: Tile, b: Tile) -> None:
    for field in fields(Tile):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype, field.name
        np.testing.assert_array_equal(left, right, err_msg=field.name)


@pytest.mark.parametrize(("row", "col"), [(0, 0), (31, 40), (133 - SIZE, 140 - SIZE)])
def test_round_trip(row: int, col: int) -> None:
    tile = cut(layers_of(), row, col, SIZE)
    members = encode(tile)
    assert sorted(members) == ["aux.b2", "dist.zst", "geo.bin", "hh.b2", "hv.b2", "json", "lab.zst"]
    assert all(isinstance(value, bytes) for value in members.values())
    assert_same(tile, decode(tile.key, members))
    assert encode(decode(tile.key, members)) == members


def test_round_trip_without_chart_and_weather() -> None:
    layers = replace(layers_of(), chart=None, coarse=np.zeros((20, 0, 0), np.float32), time=None, ice_service=None)
    tile = cut(layers, 3, 4, SIZE)
    assert tile.lab is None
    assert tile.class_counts() == {}
    assert tile.time is None
    members = encode(tile)
    assert "lab.zst" not in members
    assert_same(tile, decode(tile.key, members))


def test_metadata_is_plain_json() -> None:
    tile = cut(layers_of(), 5, 6, SIZE)
    meta = json.loads(encode(tile)["json"])
    assert meta["scene"] == scenes.RAW_NAME
    assert (meta["factor"], meta["row"], meta["col"], meta["pixel_spacing"]) == (3, 5, 6, 120)
    assert meta["time"] == "2018-07-21T12:01:56+00:00"
    assert meta["valid"] == int((np.isfinite(decode_sar(tile.hh)) | np.isfinite(decode_sar(tile.hv))).sum())
    assert meta["counts"] == tile.class_counts()


@pytest.mark.parametrize(
    ("member", "change", "message"),
    [
        ("hh.b2", None, r"member hh\.b2 .*KeyError"),
        ("json", None, "member json .*KeyError"),
        ("geo.bin", None, r"member geo\.bin .*KeyError"),
        ("hv.b2", b"", r"member hv\.b2 "),
        ("hv.b2", b"not blosc at all, but long enough", r"member hv\.b2 "),
        ("dist.zst", b"\0" * 9, r"member dist\.zst "),
        ("lab.zst", b"", r"member lab\.zst "),
        ("geo.bin", b"\0" * 12, r"member geo\.bin "),
        ("aux.b2", b"", r"member aux\.b2 "),
        ("json", b'{"schema": 3}', "member json .*size"),
        ("json", b'{"schema": 3, "size": [64, 64]}', "member json .*KeyError"),
        ("json", b'{"schema": 99}', "schema version 99, .* 3; .* arcticseg shards build"),
    ],
)
def test_damaged_members_are_named(member: str, change: bytes | None, message: str) -> None:
    members = encode(cut(layers_of(), 0, 0, SIZE))
    if change is None:
        del members[member]
    else:
        members[member] = change
    with pytest.raises(ShardError, match=rf"^sample some_key: {message}"):
        decode("some_key", members)


@pytest.mark.parametrize("size", [SIZE // 2, 2 * SIZE])
def test_members_of_another_size_are_refused(size: int) -> None:
    members = encode(cut(layers_of(), 0, 0, SIZE))
    members["hh.b2"] = encode(cut(layers_of(), 0, 0, size))["hh.b2"]
    with pytest.raises(ShardError, match=r"sample key: member hh\.b2 .* bytes"):
        decode("key", members)


def in_tar(*tiles: Tile) -> bytes:
    file = io.BytesIO()
    with webdataset.TarWriter(file, encoder=False, mtime=0) as writer:
        for tile in tiles:
            writer.write({"__key__": tile.key, **encode(tile)})
    return file.getvalue()


def test_split_members_reads_what_webdataset_writes() -> None:
    tile = cut(layers_of(), 0, 0, SIZE)
    data = in_tar(tile)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
        names = [member.name for member in members]
        end = members[-1].offset_data + (members[-1].size + 511) // 512 * 512
    assert names == [f"{tile.key}.{name}" for name in sorted(encode(tile))]
    key, members = sample.split_members(data[:end])
    assert key == tile.key
    assert members == encode(tile)


def test_split_members_refuses_other_ranges() -> None:
    data = in_tar(*(cut(layers_of(), row, 0, SIZE) for row in (0, 1)))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
        starts = [member.offset for member in members]
    length = starts[7]  # the second sample's first header
    sample.split_members(data[:length])
    for wrong, message in (
        (data[: 2 * length], f"keys .* {2 * length} bytes"),
        (data[512 : 512 + length], "tar header at byte 0"),
        (data[: length - 512], f"keys .* {length - 512} bytes"),
        (data[: length + 100], f"tar header at byte {length}"),
        (b"", "keys .* 0 bytes"),
        (bytes(1024), "tar header at byte 0"),
        (data[:124] + b"-0000001000\0" + data[136:length], "tar header at byte 0"),
    ):
        with pytest.raises(ShardError, match=message):
            sample.split_members(wrong)


def test_stock_webdataset_sees_every_member(tmp_path: Path) -> None:
    """Tests of `shards` check this for built shards; here each tile is known."""
    path = scenes.write_raw(tmp_path / f"{scenes.RAW_NAME}.nc")
    with open_scene(path) as scene:
        (layers,) = read_layers(scene, [4])
    tiles = {tile.key: tile for tile in (cut(layers, row, col, SIZE) for row in (0, 64) for col in (0, 64))}
    (tmp_path / "a.tar").write_bytes(in_tar(*tiles.values()))
    items = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    assert [item["__key__"] for item in items] == list(tiles)
    for item in items:
        members = {name: value for name, value in item.items() if not name.startswith("__")}
        assert_same(decode(item["__key__"], members), tiles[item["__key__"]])
