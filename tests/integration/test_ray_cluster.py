"""`--ray`: shards, charts and scores by two nodes of a Ray cluster, one of which is lost on the way."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from tests.archive import contents
from tests.failing import build, not_netcdf
from tests.forked import ROOT, Forked, run
from tests.shared_out import archive, same_files, scores

pytest.importorskip("ray", reason="Ray is not installed: pip install 'arcticseg[sweep]'")
pytestmark = pytest.mark.slow


# In a process of its own, since Ray reads these settings when it is imported, and ends with it.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

node = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80_000_000, "memory": 2_000_000_000}
cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
try:
    other = cluster.add_node(**node)
    print("address", cluster.address, flush=True)
    for line in sys.stdin:
        cluster.remove_node(other, allow_graceful=False)
        print("lost", flush=True)
finally:
    cluster.shutdown()
"""


class Cluster:
    """Two nodes of a core each."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.address = self._answer("address")

    def lose_a_node(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._answer("lost")

    def _answer(self, word: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(word):
                return line.removeprefix(word).strip()
        raise AssertionError(f"Ray has ended with {self._process.wait()}")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    settings = {
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        # Of this cluster alone, whatever others have left in the home folder.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    # Commands get them, too.
    with (
        mock.patch.dict(os.environ, settings),
        subprocess.Popen(
            [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        yield Cluster(process)
        assert process.stdin is not None
        process.stdin.close()


def test_charts_and_scores_of_two_nodes(cluster: Cluster, tmp_path: Path, weights: Path) -> None:
    place = archive(tmp_path / "in", 4)
    bad = not_netcdf(place)
    evaluate = ("evaluate", weights, place, "--no-maps", "--out")
    alone = run(*evaluate, tmp_path / "alone")
    assert alone.returncode == 1, alone.stderr
    done = run(*evaluate, tmp_path / "out", "--ray", cluster.address)
    assert done.returncode == 1, done.stderr
    assert scores(tmp_path / "out") == scores(tmp_path / "alone")
    assert done.stdout.replace(str(tmp_path / "out"), "") == alone.stdout.replace(str(tmp_path / "alone"), "")
    # What is told of each scene, in whatever order; without what is told of finished ones.
    told = [[line for line in text.splitlines() if line[1:3] == ": "] for text in (done.stderr, alone.stderr)]
    assert sorted(told[0]) == sorted(told[1])
    assert len(told[0]) == 4
    assert f"arcticseg: left out: {bad}: " in done.stderr
    assert "were finished before" not in done.stderr

    bad.unlink()
    predict = ("predict", weights, place, "--products", "netcdf,geotiff", "--out")
    assert run(*predict, tmp_path / "one").returncode == 0
    done = run(*predict, tmp_path / "two", "--ray", cluster.address)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == [str(tmp_path / "two" / f"{name}.nc") for name in "abcd"]
    same_files(tmp_path / "one", tmp_path / "two", 8)
    assert not list((tmp_path / "two" / ".made").glob(".*"))


def test_shards_of_two_nodes_of_which_one_is_lost(cluster: Cluster, tmp_path: Path) -> None:
    place, out = archive(tmp_path / "in", 6), tmp_path / "out"
    done = run(*build(place, tmp_path / "alone"))
    assert done.returncode == 0, done.stderr
    process = Forked("launchers.cli", [*build(place, out), "--ray", cluster.address])
    end = time.monotonic() + 120
    while len(list((out / ".parts").glob("[a-z]*.json"))) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    cluster.lose_a_node()
    assert len(list((out / ".parts").glob("[a-z]*.json"))) < 6, "it was lost on the way"
    stdout, stderr = process.communicate(240)
    assert process.returncode == 0, stderr
    assert stdout == done.stdout
    assert contents(out) == contents(tmp_path / "alone")
    assert not list(out.glob(".*"))
