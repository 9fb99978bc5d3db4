from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")

from arcticseg.data.manifest import read_manifest
from arcticseg.data.stream import SampleReader, select
from arcticseg.data.webdataset_reader import WebDatasetLoader, fetch_index
from arcticseg.errors import ShardError


@pytest.fixture
def server(tiny_shards: Path) -> Iterator[str]:
    """A web server of the shards."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tiny_shards))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


@pytest.mark.parametrize("remote", [False, True])
def test_batches_hold_the_samples_of_the_shards(remote: bool, tiny_shards: Path, server: str, tmp_path: Path) -> None:
    place = server if remote else str(tiny_shards)
    folder = fetch_index(server, tmp_path) if remote else tiny_shards
    assert not list(tmp_path.glob("*.tar"))
    selection = select(folder, read_manifest(folder), "train")
    reader = SampleReader(select(tiny_shards, read_manifest(tiny_shards), "train"))
    known = {reader.read(i).hh.tobytes() for i in range(len(selection))}
    batches = iter(WebDatasetLoader(place, selection, global_batch=8, micro_batch=4, rank=1, world_size=2))
    places = []
    for _ in range(3):
        batch = next(batches)
        assert len(batch) == 4
        assert {plane.numpy().tobytes() for plane in batch.hh} <= known
        places += batch.place.tolist()
    assert places == [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23]


def test_a_server_without_shards_is_a_clear_error(server: str, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"manifest\.json cannot be read"):
        fetch_index(f"{server}/nowhere", tmp_path)
