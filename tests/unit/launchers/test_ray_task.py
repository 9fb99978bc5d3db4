"""What a Ray task does on its machine, and what the command that asked for it refuses; without a cluster."""

from __future__ import annotations

import argparse
import os
import pickle
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from arcticseg.errors import ConfigError, SceneError
from launchers import ray_task, spread
from launchers.ray_task import Site, code, perform
from shards.workers import Job, LostError, Outcome


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(ray_task, "_PATIENCE", 0.3)
    mark, scene = tmp_path / "out" / ".seen-1", tmp_path / "a.nc"
    mark.parent.mkdir()
    mark.touch()
    scene.touch()
    yield Site(code(), mark, scene, tmp_path)
    if ray_task._crew is not None:
        ray_task._crew[1].__exit__()
        ray_task._crew = None
    if str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))


def ask(site: Site, function: Callable[..., Any], *arguments: Any, limit: float = 60.0) -> Outcome:
    outcome = pickle.loads(perform(pickle.dumps((site, pickle.dumps((function, Job(arguments, time_limit=limit)))))))
    assert isinstance(outcome, Outcome)
    return outcome


def test_a_job_is_done_as_on_one_machine(site: Site) -> None:
    """In a process of its own, which is kept; an error is a value, a crash or a hang costs the job alone."""
    first = ask(site, os.getpid).result()
    assert first != os.getpid()
    assert ask(site, os.getpid).result() == first
    assert isinstance(ask(site, int, "x").error, ValueError)
    lost = ask(site, os.abort).error
    assert isinstance(lost, LostError)
    assert "SIGABRT" in str(lost)
    lost = ask(site, time.sleep, 60, limit=0.5).error
    assert isinstance(lost, LostError)
    assert "after 0.5 s" in str(lost)
    # Another GPU: what is loaded there is of no use.
    other = ask(site, os.getpid).result()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "3")
        assert ask(site, os.getpid).result() != other
        assert ask(site, os.getenv, "CUDA_VISIBLE_DEVICES").result() == "3"


def test_a_machine_that_is_of_no_use_says_why(site: Site, tmp_path: Path) -> None:
    here = rf"^machine {socket.gethostname()} of the Ray cluster: "
    gone = tmp_path / "elsewhere" / ".seen-2"
    cases = [
        (Site("0.0.9 (abc)", site.mark, site.scene, tmp_path), r"has arcticseg .* in .*, not 0\.0\.9 \(abc\); install"),
        (Site(code(), gone, site.scene, tmp_path), rf"does not see {gone.parent}; .*all machines share"),
        (Site(code(), site.mark, gone, tmp_path), rf"does not see {gone}; .*all machines share"),
    ]
    for useless, message in cases:
        error = ask(useless, os.getpid).error
        with pytest.raises(ConfigError, match=here + message):
            raise error or AssertionError
    # A scene that is nowhere is the function's affair, and what it says.
    assert ask(Site(code(), site.mark, None, tmp_path), os.getpid).error is None
    assert ray_task._crew is not None


def test_the_code_is_that_of_every_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "a.py").write_text("a = 1\n")
    monkeypatch.setattr("arcticseg.__file__", str(tmp_path / "arcticseg" / "__init__.py"))
    seen = set()
    for text in ("a = 1\n", "a = 2\n"):
        (tmp_path / "shards" / "a.py").write_text(text)
        seen.add(code.__wrapped__())
    (tmp_path / "shards" / "a.py").rename(tmp_path / "shards" / "b.py")
    seen.add(code.__wrapped__())
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("machines", "device", "expected"),
    [
        # A machine a scene, without GPUs.
        ([{"CPU": 16.0}, {"CPU": 4.0}], None, (0, 4)),
        # The head may have no cores to lend.
        ([{"CPU": 0.0}, {"CPU": 8.0}], None, (0, 8)),
        ([{"CPU": 16.0, "GPU": 4.0}, {"CPU": 32.0, "GPU": 4.0}, {"CPU": 64.0}], None, (1, 4)),
        ([{"CPU": 2.0, "GPU": 4.0}], "cuda:1", (1, 1)),
        ([{"CPU": 16.0, "GPU": 4.0}, {"CPU": 8.0}], "cpu", (0, 8)),
    ],
)
def test_what_a_scene_gets(machines: list[dict[str, float]], device: str | None, expected: tuple[int, int]) -> None:
    assert spread._lent(machines, device) == expected


def test_clusters_that_cannot_draw() -> None:
    with pytest.raises(ConfigError, match="--device is 'cuda'; no machine of the Ray cluster has a GPU"):
        spread._lent([{"CPU": 4.0}], "cuda")
    with pytest.raises(ConfigError, match="no machine of the Ray cluster has CPUs"):
        spread._lent([{"memory": 1e9}], None)


def test_other_machines_get_whole_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    given = argparse.Namespace(
        run=Path("run"), others=[Path("/b")], imports=["mine.py", "a.b"], reference=Path("r"), baseline=None, out=None
    )
    theirs = spread._for_others(given, Path("run/evaluation"), "cuda")
    assert theirs.run == tmp_path / "run"
    assert theirs.others == [Path("/b")]
    assert theirs.imports == [str(tmp_path / "mine.py"), "a.b"]
    assert theirs.reference == tmp_path / "r"
    assert theirs.baseline is None
    assert theirs.out == tmp_path / "run" / "evaluation"
    assert theirs.device == "cuda"
    assert given.run == Path("run"), "this machine's own stay"


def test_what_is_printed_comes_with_the_outcome(capsys: pytest.CaptureFixture[str]) -> None:
    def body(outcome: Any) -> None:
        print("drawn")
        print("a note", file=sys.stderr)
        outcome.fail(Path("a.nc"), SceneError("a.nc: is damaged"))

    told = pickle.loads(pickle.dumps(spread.told(body)))
    assert (told.out, told.err) == ("drawn\n", "a note\n")
    assert [failure.reason for failure in told.outcome.failed] == ["a.nc: is damaged"]
    assert capsys.readouterr() == ("", "")
