from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from pathlib import Path

import made
import numpy as np
import pytest
import torch
from made import hashes

from arcticseg.data.augment import Augment
from arcticseg.data.config import DataConfig
from arcticseg.data.decode import Layout
from arcticseg.data.loader import Loader, make_order
from arcticseg.data.manifest import read_manifest
from arcticseg.data.reader import SampleReader
from arcticseg.data.select import Selection, open_set, select, select_from
from arcticseg.data.share import Share
from arcticseg.errors import ConfigError
from arcticseg.ice.channels import expand

AUGMENT = Augment(3, flips=True, quarter_turns=True, drop_groups=(("hh", 0.5),))
LAYOUT = Layout.of(made.SIZE, (2, 8), expand(("hh", "hv", "incidence", "distance", "amsr2", "era5")))


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> Selection:
    folder = tmp_path_factory.mktemp("shards")
    made.write(folder, [made.tile(i, scene=f"s{i % 4}", factor=(2, 2, 8)[i % 3]) for i in range(21)])
    return select(folder, read_manifest(folder), "train")


def loader(selection: Selection, mix: str = "none", share: Share = Share(0, 1, 6, 3), workers: int = 0) -> Loader:
    order = make_order(selection, DataConfig(block=10), mix, seed=1)
    return Loader(SampleReader(selection), LAYOUT, order, share, workers, AUGMENT)


def take(source: Loader, steps: int) -> list[dict[int, str]]:
    """(place -> hash of the row) of each micro batch of some steps."""
    batches = []
    for _ in range(steps):
        batches += [hashes(batch) for batch in source.step()]
        assert not source.trouble
        source.stepped()
    return batches


@pytest.mark.parametrize("mix", ["none", "weights"])
def test_workers_make_no_difference(selection: Selection, mix: str) -> None:
    expected = take(loader(selection, mix), 5)
    by_workers = loader(selection, mix, workers=2)
    assert take(by_workers, 5) == expected
    by_workers.close()
    assert [place for batch in expected for place in batch] == list(range(30))


def test_batches_hold_the_samples_of_the_order(selection: Selection) -> None:
    order = make_order(selection, DataConfig(block=10), "weights", seed=1)
    source = loader(selection, "weights")
    for _ in range(4):
        for batch in source.step():
            for i, place in enumerate(batch.place.tolist()):
                (number,) = order.samples([place])
                np.testing.assert_array_equal(batch.hh[i].numpy(), made.tile(number).hh.astype(np.int16))
        source.stepped()


def test_ranks_together_take_what_a_single_rank_takes(selection: Selection) -> None:
    single = take(loader(selection, share=Share(0, 1, 6, 6)), 5)
    ranks = [take(loader(selection, share=Share(rank, 3, 6, 2)), 5) for rank in range(3)]
    assert [a | b | c for a, b, c in zip(*ranks, strict=True)] == single


def test_micro_batches_divide_a_step(selection: Selection) -> None:
    assert [len(batch) for batch in take(loader(selection, share=Share(0, 1, 6, 2)), 2)] == [2] * 6
    assert [len(batch) for batch in take(loader(selection, share=Share(0, 1, 12, 6)), 2)] == [6] * 4


@pytest.mark.parametrize("workers", [0, 1])
def test_resume_goes_on_at_the_next_step(selection: Selection, workers: int) -> None:
    whole = take(loader(selection), 6)
    first = loader(selection, workers=workers)
    take(first, 3)
    first.step()  # the work of this step would be lost by a kill
    state = first.state_dict()
    first.close()
    assert state["consumed"] == 18
    second = loader(selection, workers=workers, share=Share(0, 1, 6, 2))
    second.load_state_dict(state)
    assert [row for batch in take(second, 3) for row in batch.items()] == [
        row for batch in whole[6:] for row in batch.items()
    ]
    second.close()


def test_the_global_batch_may_change(selection: Selection) -> None:
    """Within an epoch: no sample of the epoch is lost or taken twice."""
    first = loader(selection)
    taken = take(first, 2)
    second = loader(selection, share=Share(0, 1, 12, 3))
    second.load_state_dict(first.state_dict())
    taken += take(second, 1)
    order = make_order(selection, DataConfig(), "none", seed=1)
    places = [place for batch in taken for place in batch]
    assert places == list(range(24))
    assert sorted(order.samples(places[:21])) == list(range(21))


def test_a_state_of_other_samples_is_refused(selection: Selection) -> None:
    other = replace(selection, fingerprint="0")
    with pytest.raises(ConfigError, match="as many samples of as many scenes"):
        loader(other).load_state_dict(loader(selection).state_dict())
    folder = selection.sources[0].address
    fewer = select_from([open_set(folder)], "train", factors=(2,))
    with pytest.raises(
        ConfigError,
        match=rf"^{folder}: .*: 21 -> 14 samples, 5 -> 4 shards, 7 -> 0 of factor 8; .*data\.shards",
    ):
        loader(fewer).load_state_dict(loader(selection).state_dict())
    fewer = select_from([open_set(folder)], "train", scenes=["s1", "s2"])
    with pytest.raises(ConfigError, match="21 -> 10 samples, 4 -> 2 scenes"):
        loader(fewer).load_state_dict(loader(selection).state_dict())


def test_the_state_of_torch_does_not_change(selection: Selection) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    take(loader(selection), 3)
    assert torch.equal(torch.rand(3), expected)


def test_streams_are_factors(selection: Selection) -> None:
    order = make_order(selection, DataConfig(weights={8: 3.0, 2: 1.0}, block=8), "weights", seed=0)
    assert [set(selection.factor[stream.samples]) for stream in order.streams] == [{2}, {8}]
    assert order.weights == (1.0, 3.0)
    drawn = selection.factor[order.samples(range(80))]
    assert (drawn == 8).sum() == 60
    equal = make_order(selection, DataConfig(block=8), "weights", seed=0)
    assert equal.weights == (1.0, 1.0)


def test_streams_of_several_sets(tmp_path: Path) -> None:
    """Each factor keeps its weight; the sets that have samples of it share the weight."""
    made.write(tmp_path / "a", [made.tile(i, factor=(2, 8)[i % 2]) for i in range(20)])
    made.write(tmp_path / "b", [made.tile(i, scene="other", factor=2) for i in range(6)])
    both = select_from([open_set(str(tmp_path / name)) for name in "ab"], "train")
    order = make_order(both, DataConfig(weights={2: 1.0, 8: 1.0}, block=80, set_weights=(3.0, 1.0)), "weights", seed=0)
    drawn = order.samples(range(80))
    of_set = np.array([both.shards[both.shard[number]][0] for number in drawn])
    factors = both.factor[drawn]
    assert [((of_set == i) & (factors == k)).sum() for i, k in ((0, 2), (1, 2), (0, 8))] == [30, 10, 40]
    whole = make_order(both, DataConfig(), "none", seed=0)
    assert sorted(whole.samples(range(26))) == list(range(26))


@pytest.mark.parametrize("mix", ["none", "weights"])
def test_shuffling_by_blocks_of_shards(selection: Selection, mix: str) -> None:
    """With a window of a single shard, a stream's samples of a shard stand together."""
    order = make_order(selection, DataConfig(block=10, shuffle="blocks", window=1), mix, seed=0)
    for stream in range(len(order.streams)):
        numbers = order.samples(range(200))
        drawn = [number for number in numbers if number in order.streams[stream].samples][: len(order.streams[stream])]
        shards = selection.shard[drawn].tolist()
        assert len(list(groupby(shards))) == len(set(shards)) > 2
        assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize(
    ("weights", "block", "message"),
    [
        ({2: 1.0}, 10, r"key 'data\.weights' is \{2: 1\.0\}; .*\[2, 8\]"),
        ({2: 1.0, 4: 1.0, 8: 1.0}, 10, r"key 'data\.weights'"),
        ({}, 1, r"key 'data\.block' is 1; "),
        # A weight so small that a block of ten has no place for it.
        ({2: 1.0, 8: 100.0}, 10, r"key 'data\.block' is 10; "),
    ],
)
def test_impossible_mixes_are_refused(
    selection: Selection, weights: dict[int, float], block: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_order(selection, DataConfig(weights=weights, block=block), "weights", seed=0)
