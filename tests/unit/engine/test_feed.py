"""What a training is fed with, step by step, on one rank and on two."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import Tensor

from arcticseg.data.augment import Augment
from arcticseg.data.config import DataConfig
from arcticseg.data.decode import Layout
from arcticseg.data.inputs import Inputs
from arcticseg.data.loader import Loader, make_order
from arcticseg.data.manifest import read_manifest
from arcticseg.data.quarantine import Damage
from arcticseg.data.reader import SampleReader
from arcticseg.data.select import select
from arcticseg.data.share import Share
from arcticseg.data.transforms import Assemble
from arcticseg.engine import process_group
from arcticseg.engine.feed import Feed
from arcticseg.engine.process_group import Ranks
from arcticseg.errors import ShardError
from arcticseg.ice.channels import expand
from arcticseg.models.config import ModelConfig
from arcticseg.tasks.pretrain import Pretrain
from arcticseg.tasks.task import Task
from tests.unit.engine.trainings import ALONE, Assembler, Halving, Value
from tests.unit.tasks.test_segment import task_of

sys.path.append(str(Path(__file__).parents[1] / "data"))
import made

CHANNELS = expand(("hh", "hv", "incidence", "amsr2"))
LAYOUT = Layout.of(made.SIZE, (4,), CHANNELS)
AUGMENT = Augment(3, flips=True, quarter_turns=True, crop=0.5, cutmix=0.5)
TASKS: dict[str, Callable[[], Task]] = {
    "segment": lambda: task_of(ModelConfig()),
    "pretrain": lambda: Pretrain([0, 1], 4, 0.75, 0),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made.write(tmp_path, [made.tile(i, scene=f"s{i % 4}") for i in range(20)])
    return tmp_path


def loader_of(folder: Path, micro: int = 2) -> Loader:
    selection = select(folder, read_manifest(folder), "train")
    order = make_order(selection, DataConfig(), "none", seed=1)
    return Loader(SampleReader(selection), LAYOUT, order, Share(0, 1, 6, micro), augment=AUGMENT, max_damaged=5)


def feed_of(loader: Any, task: Task, tell: Callable[[Sequence[Damage]], None] = list, **options: Any) -> Feed:
    assemble = Assemble(CHANNELS, True, want=task.want(torch.float32))
    return Feed(loader, assemble, task, ALONE, **{"stops": lambda: False, "tell": tell} | options)


def copied(inputs: Inputs) -> Inputs:
    """As it is now, whatever becomes of its memory."""
    return replace(inputs, **{name: part.clone() for name, part in vars(inputs).items() if isinstance(part, Tensor)})


@pytest.mark.parametrize("micro", [2, 6])
@pytest.mark.parametrize("name", TASKS)
def test_a_turn_gives_the_loaders_batches_and_what_counts_in_them(name: str, micro: int, folder: Path) -> None:
    task, plain = TASKS[name](), loader_of(folder, micro)
    assemble = Assemble(CHANNELS, True)
    feed = feed_of(loader_of(folder, micro), task)
    for turn in feed.turns(0, 9):
        expected = [copied(assemble(batch)) for batch in plain.step()]
        assert plain.names(plain.consumed) == turn.keys()
        plain.stepped()
        counted = torch.stack([task.counts(inputs) for inputs in expected]).sum(0)
        assert torch.equal(turn.counted, counted)
        assert len(turn) == len(expected) == 6 // micro
        for ours, theirs in zip(turn, expected, strict=True):
            assert torch.equal(ours.place, theirs.place)
            assert torch.equal(ours.seen, theirs.seen)
            assert torch.equal(ours.labels, theirs.labels)
            ours.labels.fill_(7)  # nobody else holds this memory
        feed.loader.stepped()
    assert feed.loader.consumed == plain.consumed == 54
    assert feed.loader.waited > 0
    feed.loader.close()
    plain.close()


def test_names_say_where_samples_are(folder: Path) -> None:
    loader = loader_of(folder)
    names = loader.names(18)
    # Places 18 and 19 end the first pass over 20 samples.
    assert len(names) == 6
    assert all(name.startswith("s") and "train-00000" in name and "sample at byte" in name for name in names)
    assert len(set(names[:2] + loader.names(0) + loader.names(6) + loader.names(12))) == 20
    loader.close()


def test_a_network_draws_by_step_and_place_and_not_in_validation(folder: Path) -> None:
    asked: list[tuple[int, list[int]]] = []

    def seeds(step: int, places: Tensor) -> Tensor:
        asked.append((step, places.tolist()))
        return places * 10 + step

    feed = feed_of(loader_of(folder), TASKS["pretrain"](), seeds=seeds)
    seen = [inputs.seeds.tolist() for turn in feed.turns(4, 6) for inputs in turn if inputs.seeds is not None]
    assert seen == [[10 * place + step for place in places] for step, places in asked]
    assert [step for step, _ in asked] == [4] * 3 + [5] * 3
    batch = loader_of(folder).step()[0]
    ((inputs, n),) = feed.passing([(batch, 1)])
    assert (inputs.seeds, n) == (None, 1)
    assert inputs.drawn is not None
    feed.loader.close()


class Counted:
    """A loader of one value a step that has trouble with some steps, and counts what is read."""

    damaged = 0

    def __init__(self, trouble: Sequence[int] = (), error: ShardError | None = None) -> None:
        self.consumed, self.read, self.settled = 0, 0, 0
        self._trouble, self._error = set(trouble), error

    def copies_on(self, stream: Any) -> None:
        pass

    def step(self, in_use: int = 0) -> list[Value]:
        self.read += 1
        return [Value(torch.tensor([self.read - 1]))]

    @property
    def trouble(self) -> bool:
        return self.read - 1 in self._trouble

    def settle(self, gather: Any) -> tuple[list[Value], list[Damage]]:
        self.settled += 1
        for error in gather(self._error if self.trouble else None):
            if error is not None:
                raise error
        self._trouble.discard(self.read - 1)
        return [Value(torch.tensor([self.read + 99]))], [Damage(self.read - 1, "shard", 0, "damaged")]

    def names(self, consumed: int) -> list[str]:
        return [f"value {consumed}"]

    def stepped(self) -> None:
        self.consumed += 1


def counted_feed(loader: Counted, ranks: Ranks = ALONE, **options: Any) -> Feed:
    given: dict[str, Any] = {"stops": lambda: False, "tell": lambda damages: None} | options
    return Feed(loader, Assembler(), Halving(), ranks, **given)  # type: ignore[arg-type]


def test_no_step_is_read_that_will_not_come() -> None:
    loader = Counted()
    feed = counted_feed(loader)
    read = []
    for turn in feed.turns(0, 3):
        read.append((turn.step, loader.read))
        assert [inputs.place.item() for inputs in turn] == [turn.step]
        read.append((turn.step, loader.read))
    assert read == [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (2, 3)]
    assert list(feed.turns(3, 3)) == []


def test_a_wish_to_stop_ends_the_turns_with_the_next() -> None:
    steps: list[int] = []
    loader = Counted()
    feed = counted_feed(loader, stops=lambda: steps[-1:] == [1])
    for turn in feed.turns(0, 9):
        assert turn.stop == (turn.step == 2)
        list(turn)
        steps.append(turn.step)
    assert steps == [0, 1, 2]
    assert loader.read == 3


def test_a_turn_that_nobody_goes_through_is_followed_by_the_next() -> None:
    feed = counted_feed(Counted())
    assert [turn.step for turn in feed.turns(0, 3)] == [0, 1, 2]


def test_trouble_is_settled_when_its_step_comes() -> None:
    loader, told = Counted(trouble=(1,)), []
    feed = counted_feed(loader, tell=lambda damages: told.append((loader.consumed, [d.number for d in damages])))
    places = []
    for turn in feed.turns(0, 3):
        places.append([inputs.place.item() for inputs in turn])
        assert float(turn.counted) == 1
        loader.stepped()
    assert places == [[0], [101], [2]]
    assert (loader.settled, told) == (1, [(1, [1])])


def test_damage_is_replaced_as_without_reading_ahead(folder: Path) -> None:
    shard = folder / "train-000001.tar"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)

    def plainly() -> tuple[list[list[int]], list[Damage]]:
        loader, news, labels = loader_of(folder), [], []
        for _ in range(8):
            batches = loader.step()
            while loader.trouble:
                batches, new = loader.settle(lambda value: [value])
                news += new
            labels += [batch.lab.long().sum((1, 2, 3)).tolist() for batch in batches]
            loader.stepped()
        loader.close()
        return labels, news

    told: list[Damage] = []
    feed = feed_of(loader_of(folder), Pretrain([0], 4, 0.75, 0), told.extend)
    labels = []
    for turn in feed.turns(0, 8):
        labels += [batch.lab.long().sum((1, 2, 3)).tolist() for batch in turn._batches]
        list(turn)
        feed.loader.stepped()
    feed.loader.close()
    assert told
    assert (labels, told) == plainly()


def rank_process(rank: int, folder: Path, answers: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder / 'store'}", rank=rank, world_size=2)
    ranks = replace(ALONE, rank=rank, world_size=2)
    heard: dict[str, Any] = {}

    # Rank 1 wishes to stop once three steps are done; rank 0 has trouble with step 1.
    steps: list[tuple[int, int, float, bool]] = []
    loader = Counted(trouble=(1,) if rank == 0 else ())
    feed = counted_feed(loader, ranks, stops=lambda: rank == 1 and loader.consumed > 2)
    for turn in feed.turns(0, 9):
        (place,) = [inputs.place.item() for inputs in turn]
        # Other traffic of hosts and devices comes between.
        process_group.agree(None)
        assert float(process_group.sum_over_ranks(torch.ones(1))) == 2
        loader.stepped()
        steps.append((turn.step, int(place), float(turn.counted), turn.stop))
    heard["steps"] = steps
    heard["settled"] = loader.settled

    loader = Counted(trouble=(2,), error=ShardError("of rank 1")) if rank == 1 else Counted()
    done = 0
    try:
        for turn in counted_feed(loader, ranks).turns(0, 9):
            list(turn)
            loader.stepped()
            done = turn.step + 1
    except ShardError as error:
        heard["error"] = str(error), done
    process_group.stop()
    answers.put((rank, heard))


def test_ranks_agree_on_trouble_and_wishes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    ranks = [context.Process(target=rank_process, args=(rank, tmp_path, answers)) for rank in range(2)]
    for process in ranks:
        process.start()
    told = dict(answers.get(timeout=60) for _ in ranks)
    for process in ranks:
        process.join(60)
    # It is granted after the fourth.
    steps = [(0, 0, 2.0, False), (1, 101, 2.0, False), (2, 2, 2.0, False), (3, 3, 2.0, True)]
    expected = {"steps": steps, "settled": 1, "error": ("of rank 1", 2)}
    assert told == {0: expected, 1: expected}
