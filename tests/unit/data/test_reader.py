import io
import pickle
import tarfile
from pathlib import Path

import made
import numpy as np
import pytest

from arcticseg.data.manifest import read_index, read_manifest
from arcticseg.data.quarantine import Damage, DamagedSample
from arcticseg.data.reader import SampleReader
from arcticseg.data.select import select
from arcticseg.data.tile import Tile
from arcticseg.errors import ShardError


@pytest.fixture(scope="module")
def tiles() -> list[Tile]:
    return [made.tile(i) for i in range(30)]


@pytest.fixture(scope="module")
def folder(tiles: list[Tile], tmp_path_factory: pytest.TempPathFactory) -> Path:
    shards = tmp_path_factory.mktemp("shards")
    made.write(shards, tiles, per_shard=7)
    return shards


def test_samples_are_read_by_number(folder: Path, tiles: list[Tile]) -> None:
    reader = SampleReader(select(folder, read_manifest(folder), "train"))
    for number in (29, 0, 7, 6, 7):
        tile = reader.read(number)
        assert tile.key == tiles[number].key
        np.testing.assert_array_equal(tile.hh, tiles[number].hh)
        np.testing.assert_array_equal(tile.aux, tiles[number].aux)
    copy = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(copy.read(3).hv, tiles[3].hv)
    reader.close()
    np.testing.assert_array_equal(reader.read(3).hv, tiles[3].hv)
    reader.close()


def test_the_core_is_read_alone(folder: Path) -> None:
    selection = select(folder, read_manifest(folder), "train")
    whole, core = SampleReader(selection), SampleReader(selection, core_only=True)
    for number in (0, 13):
        data = core.fetch(number)
        assert whole.fetch(number).endswith(data)
        with tarfile.open(fileobj=io.BytesIO(data + bytes(1024))) as tar:
            members = [name.partition(".")[2] for name in tar.getnames()]
        assert members == ["hh.b2", "hv.b2", "json", "lab.zst"]


def test_damage_is_noticed_before_decoding(tmp_path: Path, tiles: list[Tile]) -> None:
    made.write(tmp_path, tiles[:3])
    reader = SampleReader(select(tmp_path, read_manifest(tmp_path), "train"))
    entry = read_index(tmp_path / "train-000000.tar")[1]
    path = tmp_path / "train-000000.tar"
    data = bytearray(path.read_bytes())
    data[entry.offset + entry.size - 1] ^= 1  # padding: no decoder would notice
    path.write_bytes(data)
    assert reader.read(0).key == tiles[0].key
    with pytest.raises(DamagedSample, match=rf"^{path}: sample at byte {entry.offset} .*\(checksum") as caught:
        reader.read(1)
    assert caught.value.damage == Damage(1, str(path), entry.offset, "checksum differs")
    assert pickle.loads(pickle.dumps(caught.value)).damage == caught.value.damage
    assert reader.where(1) == f"{path}: sample at byte {entry.offset}"
    path.write_bytes(data[: entry.offset + 99])
    with pytest.raises(ShardError, match=rf"^{path}: .*\(99 of {entry.size} bytes\)"):
        reader.read(1)


def test_a_shard_replaced_while_it_is_open_is_opened_again(tmp_path: Path, tiles: list[Tile]) -> None:
    made.write(tmp_path, tiles[:3])
    path = tmp_path / "train-000000.tar"
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)))
    reader = SampleReader(select(tmp_path, read_manifest(tmp_path), "train"))
    with pytest.raises(DamagedSample):
        reader.fetch(0)
    (tmp_path / "new").write_bytes(whole)
    (tmp_path / "new").rename(path)
    assert reader.read(0).key == tiles[0].key


def test_a_missing_shard(tmp_path: Path, tiles: list[Tile]) -> None:
    made.write(tmp_path, tiles[:3])
    reader = SampleReader(select(tmp_path, read_manifest(tmp_path), "train"))
    (tmp_path / "train-000000.tar").unlink()
    with pytest.raises(ShardError, match=r"train-000000\.tar: .*No such file"):
        reader.read(0)
