from collections.abc import Iterable
from dataclasses import fields
from itertools import islice

import made
import numpy as np
import pytest
import torch

from arcticseg.data.batch import Augment, Batch
from arcticseg.data.loader import Loader, evaluation_batches, make_order
from arcticseg.data.manifest import read_manifest
from arcticseg.data.stream import Selection, select
from arcticseg.errors import ConfigError

AUGMENT = Augment(3, flips=True, quarter_turns=True, drop_groups=(("hh", 0.5),))


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> Selection:
    folder = tmp_path_factory.mktemp("shards")
    made.write(folder, [made.tile(i, scene=f"s{i % 4}", factor=(2, 2, 8)[i % 3]) for i in range(21)])
    return select(folder, read_manifest(folder), "train")


def loader(selection: Selection, mix: str = "none", **options: object) -> Loader:
    order = make_order(selection, mix, {}, 10, seed=1)
    return Loader(selection, order, 6, **({"micro_batch": 3, "augment": AUGMENT} | options))  # type: ignore[arg-type]


def same(a: Batch, b: Batch) -> bool:
    return all(
        torch.equal(torch.nan_to_num(getattr(a, field.name)), torch.nan_to_num(getattr(b, field.name)))
        for field in fields(Batch)
    )


def places(batches: Iterable[Batch]) -> list[int]:
    return [place for batch in batches for place in batch.place.tolist()]


@pytest.mark.parametrize("mix", ["none", "weights"])
def test_workers_make_no_difference(selection: Selection, mix: str) -> None:
    alone = list(islice(loader(selection, mix), 10))
    helped = list(islice(loader(selection, mix, workers=2), 10))
    assert places(alone) == list(range(30))
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


def test_batches_hold_the_samples_of_the_order(selection: Selection) -> None:
    order = make_order(selection, "weights", {}, 10, seed=1)
    for batch in islice(loader(selection, "weights"), 8):
        for i, place in enumerate(batch.place.tolist()):
            number = order.sample(place)
            np.testing.assert_array_equal(batch.hh[i].numpy(), made.tile(number).hh.astype(np.int16))


def test_ranks_together_see_what_one_sees(selection: Selection) -> None:
    alone = islice(loader(selection, micro_batch=6), 5)
    for rank_batches, whole in zip(
        zip(*(loader(selection, rank=rank, world_size=3, micro_batch=2) for rank in range(3)), strict=False),
        alone,
        strict=False,
    ):
        assert places(rank_batches) == whole.place.tolist()
        assert torch.equal(torch.cat([batch.hh for batch in rank_batches]), whole.hh)
        assert torch.equal(torch.cat([batch.drop for batch in rank_batches]), whole.drop)


def test_micro_batches_divide_a_step(selection: Selection) -> None:
    assert [len(batch) for batch in islice(loader(selection, micro_batch=2), 4)] == [2] * 4
    assert [len(batch) for batch in islice(loader(selection, micro_batch=6), 2)] == [6, 6]


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_goes_on_at_the_next_step(selection: Selection, workers: int) -> None:
    whole = list(islice(loader(selection), 12))
    first = loader(selection, workers=workers)
    batches = iter(first)
    for _ in range(3):
        next(batches), next(batches)
        first.stepped()
    next(batches)  # half a step, whose work a kill would lose
    state = first.state_dict()
    assert state["consumed"] == 18
    second = loader(selection, workers=workers, micro_batch=2)
    second.load_state_dict(state)
    assert places(islice(second, 9)) == places(whole[6:])
    third = loader(selection, workers=workers)
    third.load_state_dict(state)
    assert all(same(a, b) for a, b in zip(islice(third, 6), whole[6:], strict=True))


def test_resume_on_other_ranks(selection: Selection) -> None:
    state = loader(selection).state_dict() | {"consumed": 12}
    found = []
    for rank in range(2):
        part = loader(selection, rank=rank, world_size=2)
        part.load_state_dict(state)
        found.append(next(iter(part)).place.tolist())
    assert found == [[12, 13, 14], [15, 16, 17]]


def test_a_state_of_other_samples_is_refused(selection: Selection) -> None:
    other = select(selection.folder, read_manifest(selection.folder), "train", factors=(2,))
    with pytest.raises(
        ConfigError, match=r"the selected samples \(14, .*\) are not those of the checkpoint .*; restore"
    ):
        loader(other).load_state_dict(loader(selection).state_dict())


def test_torch_state_is_left_alone(selection: Selection) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(islice(loader(selection, workers=1), 3))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("micro", "world_size", "workers"), [(4, 1, 0), (4, 2, 0), (5, 3, 0), (21, 1, 0), (30, 2, 0), (4, 1, 1)]
)
def test_evaluation_sees_every_sample_once(selection: Selection, micro: int, world_size: int, workers: int) -> None:
    counted, lengths = [], set()
    for rank in range(world_size):
        batches = list(evaluation_batches(selection, micro, rank, world_size, workers))
        lengths.add(len(batches))
        for batch, count in batches:
            assert len(batch) == micro
            assert not batch.drop.any()
            assert not batch.transpose.any()
            counted += batch.place[:count].tolist()
            for i in range(count):
                number = int(batch.place[i])
                np.testing.assert_array_equal(batch.hv[i].numpy(), made.tile(number).hv.astype(np.int16))
    assert sorted(counted) == list(range(21))
    # ZeRO-3 gathers weights in every forward pass, so every rank must do as many.
    assert len(lengths) == 1


def test_streams_are_factors(selection: Selection) -> None:
    order = make_order(selection, "weights", {8: 3.0, 2: 1.0}, 8, seed=0)
    factors = np.array([entry.factor for _, entry in selection.samples])
    assert [set(factors[stream]) for stream in order.streams] == [{2}, {8}]
    assert order.weights == (1.0, 3.0)
    drawn = factors[[order.sample(place) for place in range(80)]]
    assert (drawn == 8).sum() == 60
    equal = make_order(selection, "weights", {}, 8, seed=0)
    assert equal.weights == (1.0, 1.0)


@pytest.mark.parametrize(
    ("weights", "block", "message"),
    [
        ({2: 1.0}, 10, r"key 'data\.weights' is \{2: 1\.0\}; set a weight for each factor selected: \[2, 8\]"),
        ({2: 1.0, 4: 1.0, 8: 1.0}, 10, r"key 'data\.weights'"),
        ({}, 1, r"key 'data\.block' is 1; "),
        # A share so small that a block of ten gives it no place.
        ({2: 1.0, 8: 100.0}, 10, r"key 'data\.block' is 10; "),
    ],
)
def test_mixes_that_cannot_be(selection: Selection, weights: dict[int, float], block: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_order(selection, "weights", weights, block, seed=0)
