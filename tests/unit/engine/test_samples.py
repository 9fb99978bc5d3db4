"""The samples that hooks look at: the same in each pass and on any number of ranks, with their labels."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from arcticseg.data.decode import Layout
from arcticseg.data.manifest import read_manifest
from arcticseg.data.reader import SampleReader
from arcticseg.data.select import Selection, select
from arcticseg.data.share import Share
from arcticseg.data.transforms import Assemble
from arcticseg.data.validation import ValidationLoader
from arcticseg.engine.samples import Samples
from arcticseg.errors import ConfigError, ShardError
from arcticseg.ice.channels import expand
from arcticseg.tasks.pretrain import Pretrain
from tests.unit.engine.trainings import ALONE

sys.path.append(str(Path(__file__).parents[1] / "data"))
import made

CHANNELS = expand(("hh", "hv", "incidence"))
LAYOUT = Layout.of(made.SIZE, (4,), CHANNELS)
# Numbers of tiles without a chart: all of scene s3.
UNLABELLED = {3, 7, 11, 15, 19}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiles = [made.tile(i, scene=f"s{i % 4}", labelled=i not in UNLABELLED) for i in range(20)]
    made.write(tmp_path, tiles, split="val")
    return tmp_path


def samples_of(folder: Path, rank: int = 0, world: int = 1, micro: int = 2) -> Samples:
    task = Pretrain([0, 1], 4, 0.75, seed=0)
    share = Share(rank, world, micro * world, micro)

    def selected(labels: bool) -> Selection:
        return select(folder, read_manifest(folder), "val", labelled=labels)

    def loader(selection: Selection) -> ValidationLoader:
        return ValidationLoader(SampleReader(selection), LAYOUT, share)

    return Samples(selected, loader, Assemble(CHANNELS, want=task.want(torch.float32)), task, ALONE)


def counted(samples: Samples, count: int, labels: bool = True) -> dict[int, tuple[torch.Tensor, ...]]:
    """Number of each sample that counts -> what is given of it."""
    seen = {}
    for inputs, n in samples.batches(count, labels):
        assert inputs.drawn is not None
        for row in range(n):
            number = int(inputs.place[row])
            assert number not in seen
            seen[number] = tuple(part[row].clone() for part in (inputs.x, inputs.labels, inputs.drawn))
    return seen


@pytest.mark.parametrize(("count", "labels"), [(7, True), (100, True), (7, False)])
def test_the_same_samples_on_any_number_of_ranks_and_in_each_pass(folder: Path, count: int, labels: bool) -> None:
    alone = samples_of(folder)
    first, again = (counted(alone, count, labels) for _ in range(2))
    whole = 20 if not labels else 20 - len(UNLABELLED)
    assert len(first) == min(count, whole)
    spread: dict[int, tuple[torch.Tensor, ...]] = {}
    lengths = set()
    for rank in range(3):
        own = samples_of(folder, rank, 3)
        spread |= counted(own, count, labels)
        lengths.add(len(list(own.batches(count, labels))))
    assert len(lengths) == 1
    assert first.keys() == again.keys() == spread.keys()
    for number, parts in first.items():
        for other in (again[number], spread[number]):
            assert all(map(torch.equal, parts, other))


def test_labels_are_those_of_the_tiles(folder: Path) -> None:
    samples = samples_of(folder)
    chosen = samples.chosen(100)
    labelled = [number for number in range(20) if number not in UNLABELLED]
    for number, (_, labels, _) in counted(samples, 100).items():
        np.testing.assert_array_equal(labels.numpy(), made.tile(labelled[number]).lab)
    assert {chosen.scenes[scene] for scene in chosen.scene} == {"s0", "s1", "s2"}


def test_few_samples_are_of_many_scenes_and_some_of_more(folder: Path) -> None:
    whole = select(folder, read_manifest(folder), "val")
    before: set[int] = set()
    for count in range(1, 21):
        few = whole.few(count)
        assert len(few) == count
        assert sorted(Counter(few.scene.tolist()).values())[0] >= count // 4 or count < 4
        assert max(Counter(few.scene.tolist()).values()) <= -(-count // 4)
        assert before < set(few.key.tolist())
        before = set(few.key.tolist())
    assert whole.few(21) is whole


def test_nothing_is_read_before_it_is_asked_for_and_errors_say_what_lacks(folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    made.write(bare, [made.tile(i, labelled=False) for i in range(3)], split="val")
    samples = samples_of(bare)
    assert len(counted(samples, 5, labels=False)) == 3
    with pytest.raises(ConfigError, match="no labelled sample"):
        next(samples.batches(5))
    gone = samples_of(folder)
    assert len(gone.chosen(3)) == 3
    for shard in folder.glob("*.tar"):
        shard.unlink()
    with pytest.raises(ShardError):
        next(gone.batches(3))
