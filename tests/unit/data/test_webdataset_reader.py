from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import made
import pytest

pytest.importorskip("torch")

from arcticseg.data.reader import SampleReader
from arcticseg.data.select import open_set, select_from
from arcticseg.data.share import Share
from arcticseg.data.webdataset_reader import WebDatasetLoader
from arcticseg.errors import ShardError
from tests.served import serve


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shards = tmp_path_factory.mktemp("shards")
    made.write(shards, [made.tile(i) for i in range(12)])
    return shards


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    with serve(folder) as server:
        yield server.address


@pytest.mark.parametrize("remote", [False, True])
def test_batches_hold_the_samples_of_the_shards(remote: bool, folder: Path, address: str) -> None:
    selection = select_from([open_set(address if remote else str(folder))], "train")
    reader = SampleReader(selection)
    known = {reader.read(i).hh.tobytes() for i in range(len(selection))}
    loader = WebDatasetLoader(selection, Share(1, 2, 16, 4))
    places = []
    for _ in range(2):
        for batch in loader.step():
            assert len(batch) == 4
            assert {plane.numpy().tobytes() for plane in batch.hh} <= known
            places += batch.place.tolist()
        assert not loader.trouble
    assert places == [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31]


def test_a_damaged_sample_is_an_error_of_all_ranks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = WebDatasetLoader(select_from([open_set(str(folder))], "train"), Share(0, 1, 4, 4))
    monkeypatch.setattr("arcticseg.data.sample.SCHEMA_VERSION", 99)
    assert loader.step() == []
    assert loader.trouble
    with pytest.raises(ShardError, match=r"schema version 2, .* 99"):
        loader.settle(lambda value: [None, value])
