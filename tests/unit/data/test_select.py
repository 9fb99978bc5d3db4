import io
import pickle
import tarfile
from pathlib import Path

import made
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcticseg.data.manifest import read_index, read_manifest, write_index
from arcticseg.data.quarantine import Damage, DamagedSample
from arcticseg.data.reader import SampleReader
from arcticseg.data.select import nested_scenes, open_set, read_scene_list, select, select_from
from arcticseg.data.tile import Tile
from arcticseg.errors import ConfigError, ShardError

SCENES = [f"scene{i}" for i in range(5)]


@pytest.fixture(scope="module")
def tiles() -> list[Tile]:
    return [made.tile(i, scene=SCENES[i % 5], factor=(2, 4, 8)[i % 3], labelled=i % 5 != 4) for i in range(30)]


@pytest.fixture(scope="module")
def folder(tiles: list[Tile], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("shards")
    made.write(place, tiles, per_shard=7)
    return place


def keys(folder: Path, **options: object) -> list[str]:
    found = select(folder, read_manifest(folder), "train", **options)
    reader = SampleReader(found)
    return [reader.read(number).key for number in range(len(found))]


def test_all_samples_in_the_order_of_the_shards(folder: Path, tiles: list[Tile]) -> None:
    assert keys(folder) == [tile.key for tile in tiles]


def test_selections(folder: Path, tiles: list[Tile]) -> None:
    assert keys(folder, factors=(8, 2)) == [tile.key for tile in tiles if tile.factor in (2, 8)]
    assert keys(folder, labelled=True) == [tile.key for tile in tiles if tile.lab is not None]
    chosen = ["scene1", "scene3"]
    assert keys(folder, scenes=chosen) == [tile.key for tile in tiles if tile.scene in chosen]
    # A share is of the scenes asked for, and of those that have such samples.
    half = keys(folder, scenes=chosen, fraction=0.5)
    assert set(half) < set(keys(folder, scenes=chosen))
    assert len(half) == 6
    assert len(keys(folder, labelled=True, fraction=0.5)) == 12


def test_the_fingerprint_is_of_the_selection(folder: Path) -> None:
    found = read_manifest(folder)
    prints = {select(folder, found, "train", factors=factors).fingerprint for factors in ((), (2, 4, 8), (2,), (4,))}
    assert len(prints) == 3
    assert select(folder, found, "train").fingerprint == found.fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factors": (3,)}, r"key 'data\.factors' asks for \[3\]; .* holds \[2, 4, 8\]; set some of these"),
        ({"split": "val"}, "holds no split 'val', only train; build it with one"),
        ({"scenes": ["scene9"]}, r"key 'data\.scenes' lists scene9, which .* does not hold; mend the list"),
        ({"scenes": ["scene4"], "labelled": True}, "split 'train' has no labelled sample of the scenes"),
    ],
)
def test_a_selection_of_nothing(folder: Path, options: dict[str, object], message: str) -> None:
    options = {"split": "train"} | options
    with pytest.raises(ConfigError, match=message):
        select(folder, read_manifest(folder), **options)


@given(st.integers(1, 60), st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 5))
def test_shares_of_scenes_are_nested(n: int, a: float, b: float, seed: int) -> None:
    names = [f"s{i}" for i in range(n)]
    small, large = (nested_scenes(names, share, seed) for share in sorted((a, b)))
    assert set(small) <= set(large) <= set(names)
    assert small == sorted(small)
    # The share asked for, rounded up.
    assert min(a, b) * n - 1e-6 <= len(small) < min(a, b) * n + 1
    assert nested_scenes(names[::-1], min(a, b), seed) == small


def test_shares_of_ten() -> None:
    names = [f"s{i}" for i in range(10)]
    assert [len(nested_scenes(names, share / 10)) for share in range(1, 11)] == list(range(1, 11))
    assert nested_scenes(names, 0.3, 0) != nested_scenes(names, 0.3, 1)


def test_lists_of_scenes(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    with pytest.raises(ConfigError, match=r"list\.txt: no such list of scenes; give a text file"):
        read_scene_list(path)
    path.write_text("\n \n")
    with pytest.raises(ConfigError, match="the file is empty; list one scene a line"):
        read_scene_list(path)
    path.write_text("# how it was made\na.nc\n  b  # a note\n\n")
    assert read_scene_list(path) == ["a", "b"]


def test_lists_of_scenes_as_json(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text('["a.nc", "b"]')
    assert read_scene_list(path) == ["a", "b"]
    for text, message in (("a.nc", "is no list of scenes"), ('{"a": 1}', "JSON array"), ("[]", "the file is empty")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_scene_list(path)


def test_samples_are_read_by_number(folder: Path, tiles: list[Tile]) -> None:
    reader = SampleReader(select(folder, read_manifest(folder), "train"))
    for number in (29, 0, 7, 6, 7):
        found = reader.read(number)
        assert found.key == tiles[number].key
        np.testing.assert_array_equal(found.hh, tiles[number].hh)
        np.testing.assert_array_equal(found.aux, tiles[number].aux)
    again = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(again.read(3).hv, tiles[3].hv)
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
            found = [name.partition(".")[2] for name in tar.getnames()]
        assert found == ["hh.b2", "hv.b2", "json", "lab.zst"]


def test_a_selection_is_small(folder: Path) -> None:
    """220,000 samples cost some tens of MB, in memory and on the way to a worker."""
    selection = select(folder, read_manifest(folder), "train")
    columns = [value for value in vars(selection).values() if isinstance(value, np.ndarray)]
    assert sum(column.nbytes for column in columns) / len(selection) < 80
    assert len(pickle.dumps(selection)) < 80 * len(selection) + 5000


def test_damage_is_met_before_decoding(tmp_path: Path, tiles: list[Tile]) -> None:
    made.write(tmp_path, tiles[:3])
    reader = SampleReader(select(tmp_path, read_manifest(tmp_path), "train"))
    entry = read_index(tmp_path / "train-000000.tar")[1]
    path = tmp_path / "train-000000.tar"
    data = bytearray(path.read_bytes())
    data[entry.offset + entry.size - 1] ^= 1  # padding: no decoder would notice
    path.write_bytes(data)
    assert reader.read(0).key == tiles[0].key
    with pytest.raises(DamagedSample, match=rf"^{path}: sample at byte {entry.offset} is damaged \(checksum") as caught:
        reader.read(1)
    assert caught.value.damage == Damage(1, str(path), entry.offset, "checksum differs")
    assert pickle.loads(pickle.dumps(caught.value)).damage == caught.value.damage
    assert reader.where(1) == f"{path}: sample at byte {entry.offset}"
    path.write_bytes(data[: entry.offset + 99])
    with pytest.raises(ShardError, match=rf"is damaged \(99 of {entry.size} bytes\); restore the shard"):
        reader.read(1)


def test_a_shard_replaced_while_it_is_open_is_read_anew(tmp_path: Path, tiles: list[Tile]) -> None:
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
    with pytest.raises(ShardError, match=r"train-000000\.tar: cannot be read \(No such file.*\); restore it"):
        reader.read(0)


def test_an_index_that_lacks_samples_is_refused(tmp_path: Path, tiles: list[Tile]) -> None:
    made.write(tmp_path, tiles[:3])
    path = tmp_path / "train-000000.tar"
    write_index(path, read_index(path)[:2])
    with pytest.raises(ShardError, match=r"train-000000\.json: lists 2 samples, the manifest 3"):
        select(tmp_path, read_manifest(tmp_path), "train")


def test_several_sets(tmp_path: Path, tiles: list[Tile]) -> None:
    made.write(tmp_path / "a", tiles[:7])
    made.write(tmp_path / "b", tiles[7:20])
    sets = [open_set(str(tmp_path / name)) for name in "ab"]
    found = select_from(sets, "train", factors=(2, 8))
    reader = SampleReader(found)
    expected = [tile.key for tile in tiles[:20] if tile.factor in (2, 8)]
    assert [reader.read(number).key for number in range(len(found))] == expected
    assert [found.shards[shard][0] for shard in found.shard] == [
        int(tile.row >= 7) for tile in tiles[:20] if tile.factor != 4
    ]
    assert reader.where(len(found) - 1).startswith(str(tmp_path / "b" / "train-000002.tar"))
    # Shares are of the scenes of all sets together.
    assert len(select_from(sets, "train", fraction=0.4).scenes) == 2
