from __future__ import annotations

import made
import numpy as np
import pytest

from arcticseg.data.decode import Layout
from arcticseg.data.reader import SampleReader
from arcticseg.data.select import Selection, select
from arcticseg.data.share import Share
from arcticseg.data.validation import ValidationLoader
from arcticseg.ice.channels import GROUPS, expand

SAMPLES = 21
LAYOUT = Layout.of(made.SIZE, (4,), expand(GROUPS))


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> Selection:
    folder = tmp_path_factory.mktemp("shards")
    return select(folder, made.write(folder, [made.tile(i) for i in range(SAMPLES)]), "train")


@pytest.mark.parametrize(
    ("micro", "world_size", "workers"), [(4, 1, 0), (4, 2, 0), (5, 3, 0), (21, 1, 0), (30, 2, 0), (4, 1, 1)]
)
def test_every_sample_counts_once(selection: Selection, micro: int, world_size: int, workers: int) -> None:
    counted, lengths = [], set()
    for rank in range(world_size):
        passes = ValidationLoader(
            SampleReader(selection), LAYOUT, Share(rank, world_size, micro * world_size, micro), workers
        )
        lengths.add(len(passes))
        for _ in range(2):
            seen = []
            for batch, count in passes:
                assert len(batch) == micro
                assert batch.draws is None
                seen += batch.place[:count].tolist()
                for i in range(count):
                    number = int(batch.place[i])
                    np.testing.assert_array_equal(batch.hv[i].numpy(), made.tile(number).hv.astype(np.int16))
            assert passes.damages == []
        counted += seen
    assert sorted(counted) == list(range(SAMPLES))
    # ZeRO-3 gathers weights in every forward pass, so every rank must do as many.
    assert len(lengths) == 1
