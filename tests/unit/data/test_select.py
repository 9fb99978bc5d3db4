import math
import pickle
from collections import Counter
from pathlib import Path

import made
import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from arcticseg.data.manifest import read_index, read_manifest, write_index
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
    shards = tmp_path_factory.mktemp("shards")
    made.write(shards, tiles, per_shard=7)
    return shards


def keys(folder: Path, **options: object) -> list[str]:
    """Keys of the samples of a selection, as they are read."""
    selection = select(folder, read_manifest(folder), "train", **options)
    reader = SampleReader(selection)
    return [reader.read(number).key for number in range(len(selection))]


def test_all_samples_in_the_order_of_the_shards(folder: Path, tiles: list[Tile]) -> None:
    assert keys(folder) == [tile.key for tile in tiles]


def test_selections(folder: Path, tiles: list[Tile]) -> None:
    assert keys(folder, factors=(8, 2)) == [tile.key for tile in tiles if tile.factor in (2, 8)]
    assert keys(folder, labelled=True) == [tile.key for tile in tiles if tile.lab is not None]
    chosen = ["scene1", "scene3"]
    assert keys(folder, scenes=chosen) == [tile.key for tile in tiles if tile.scene in chosen]
    # A share is a share of the listed scenes, and of those that have such samples.
    half = keys(folder, scenes=chosen, fraction=0.5)
    assert set(half) < set(keys(folder, scenes=chosen))
    assert len(half) == 6
    assert len(keys(folder, labelled=True, fraction=0.5)) == 12


def test_classes_are_counted_over_the_samples_of_a_selection(folder: Path, tiles: list[Tile]) -> None:
    for options in ({}, {"factors": (8, 2)}, {"scenes": ["scene1", "scene3"]}, {"labelled": True, "fraction": 0.5}):
        selection = select(folder, read_manifest(folder), "train", **options)
        keys = set(selection.key.tolist())
        kept = [t.lab for t in tiles if t.lab is not None and xxhash.xxh3_64_intdigest(t.key.encode()) in keys]
        assert selection.counts is not None
        assert list(selection.counts) == ["SIC", "SOD", "FLOE"]
        for plane, (chart, classes) in enumerate({"SIC": 11, "SOD": 6, "FLOE": 7}.items()):
            values = np.concatenate([lab[plane].ravel() for lab in kept])
            expected = [int((values == code).sum()) for code in (*range(classes), 255)]
            assert selection.counts[chart].tolist() == expected
            assert min(expected) > 0
    assert selection.sampled(0.5).counts is None


def test_a_share_is_one_of_each_scene_and_factor(tmp_path: Path) -> None:
    many = [made.tile(i, scene=SCENES[i % 3], factor=(2, 4)[i % 7 > 4]) for i in range(100)]
    whole = select(tmp_path, made.write(tmp_path, many, per_shard=9), "train")
    sizes = Counter((tile.scene, tile.factor) for tile in many)
    assert whole.sampled(1.0) is whole
    before: set[int] = set()
    for share in (0.01, 0.2, 0.21, 0.5, 0.999):
        part = whole.sampled(share)
        scenes = [part.scenes[scene] for scene in part.scene]
        strata = Counter(zip(scenes, part.factor.tolist(), strict=True))
        assert strata == {stratum: max(1, math.ceil(share * size - 1e-9)) for stratum, size in sizes.items()}
        taken = set(part.key.tolist())
        assert before <= taken
        before = taken
        assert part.fingerprint != whole.fingerprint
        # Whole rows, in the order of the shards.
        rows = [whole.key.tolist().index(key) for key in part.key.tolist()]
        assert rows == sorted(rows)
        reader = SampleReader(part)
        assert [reader.read(number).key for number in range(len(part))] == [many[row].key for row in rows]
    assert set(whole.sampled(0.5, seed=1).key.tolist()) != set(whole.sampled(0.5).key.tolist())


def test_a_samples_draw_depends_on_its_key_alone(tmp_path: Path) -> None:
    """So a selection of other scenes keeps the same samples of the scenes that both have."""
    many = [made.tile(i, scene=SCENES[i % 3]) for i in range(60)]
    manifest = made.write(tmp_path, many)
    whole = select(tmp_path, manifest, "train").sampled(0.3)
    part = select(tmp_path, manifest, "train", scenes=[SCENES[1]]).sampled(0.3)
    assert set(part.key.tolist()) == set(whole.key[whole.scene == 1].tolist())


def test_the_fingerprint_is_of_the_selection(folder: Path) -> None:
    manifest = read_manifest(folder)
    choices = ((), (2, 4, 8), (2,), (4,))
    prints = {select(folder, manifest, "train", factors=factors).fingerprint for factors in choices}
    assert len(prints) == 3
    assert select(folder, manifest, "train").fingerprint == manifest.fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factors": (3,)}, r"key 'data\.factors' .*\[3\]; {folder} .*\[2, 4, 8\]"),
        ({"split": "val"}, "^{folder}: .*'val', only train"),
        ({"scenes": ["scene9"]}, r"key 'data\.scenes' .* scene9, .*{folder}"),
        ({"scenes": ["scene4"], "labelled": True}, "^{folder}: split 'train' has no labelled sample"),
    ],
)
def test_a_selection_of_nothing(folder: Path, options: dict[str, object], message: str) -> None:
    options = {"split": "train"} | options
    with pytest.raises(ConfigError, match=message.replace("{folder}", str(folder))):
        select(folder, read_manifest(folder), **options)


@given(st.integers(1, 60), st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 5))
def test_shares_of_scenes_are_nested(n: int, a: float, b: float, seed: int) -> None:
    names = [f"s{i}" for i in range(n)]
    small, large = (nested_scenes(names, share, seed) for share in sorted((a, b)))
    assert set(small) <= set(large) <= set(names)
    assert small == sorted(small)
    # The share, rounded up.
    assert min(a, b) * n - 1e-6 <= len(small) < min(a, b) * n + 1
    assert nested_scenes(names[::-1], min(a, b), seed) == small


def test_shares_of_ten() -> None:
    names = [f"s{i}" for i in range(10)]
    assert [len(nested_scenes(names, share / 10)) for share in range(1, 11)] == list(range(1, 11))
    assert nested_scenes(names, 0.3, 0) != nested_scenes(names, 0.3, 1)


def test_lists_of_scenes(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    with pytest.raises(ConfigError, match=r"list\.txt: no such list"):
        read_scene_list(path)
    path.write_text("\n \n")
    with pytest.raises(ConfigError, match=r"list\.txt: the file is empty"):
        read_scene_list(path)
    path.write_text("# how it was made\na.nc\n  b  # a note\n\n")
    assert read_scene_list(path) == ["a", "b"]


def test_lists_of_scenes_as_json(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text('["a.nc", "b"]')
    assert read_scene_list(path) == ["a", "b"]
    for text, message in (("a.nc", "JSON array"), ('{"a": 1}', "JSON array"), ("[]", "the file is empty")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=rf"^{path}: .*{message}"):
            read_scene_list(path)


def test_a_selection_is_small(folder: Path) -> None:
    """220,000 samples take some tens of MB, in memory and on the way to a worker."""
    selection = select(folder, read_manifest(folder), "train")
    columns = [value for value in vars(selection).values() if isinstance(value, np.ndarray)]
    assert sum(column.nbytes for column in columns) / len(selection) < 80
    assert len(pickle.dumps(selection)) < 80 * len(selection) + 5000


def test_an_index_that_lacks_samples_is_refused(tmp_path: Path, tiles: list[Tile]) -> None:
    made.write(tmp_path, tiles[:3])
    path = tmp_path / "train-000000.tar"
    write_index(path, read_index(path)[:2])
    with pytest.raises(ShardError, match=r"train-000000\.json: .*checksum in the manifest"):
        select(tmp_path, read_manifest(tmp_path), "train")


def test_several_sets(tmp_path: Path, tiles: list[Tile]) -> None:
    made.write(tmp_path / "a", tiles[:7])
    made.write(tmp_path / "b", tiles[7:20])
    sets = [open_set(str(tmp_path / name)) for name in "ab"]
    selection = select_from(sets, "train", factors=(2, 8))
    reader = SampleReader(selection)
    expected = [tile for tile in tiles[:20] if tile.factor in (2, 8)]
    assert [reader.read(number).key for number in range(len(selection))] == [tile.key for tile in expected]
    assert [selection.shards[shard][0] for shard in selection.shard] == [int(tile.row >= 7) for tile in expected]
    assert reader.where(len(selection) - 1).startswith(str(tmp_path / "b" / "train-000002.tar"))
    # A share is a share of the scenes of all sets together.
    assert len(select_from(sets, "train", fraction=0.4).scenes) == 2
