import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jobs
import pytest

import shards
from arcticseg.errors import ArcticSegError, SceneError
from shards import workers
from shards.workers import Job, LostError, Outcome, Workers

pytestmark = pytest.mark.slow

ROOT = Path(shards.__file__).parents[1]


def call(function: object, arguments: tuple[object, ...]) -> object:
    return function(*arguments)  # type: ignore[operator]


def outcome_of(pool: Workers, function: object, *arguments: object) -> Outcome:
    ((_, outcome),) = pool.map(function, [Job(arguments)])  # type: ignore[arg-type]
    return outcome


def test_what_ends_a_process_costs_its_own_job_only(tmp_path: Path) -> None:
    """Crash, exit, endless loop, kill and exceptions, among jobs that succeed."""
    bad = [
        (jobs.abort, ()),
        (jobs.leave, (3,)),
        (jobs.hang_with_the_lock, ()),
        (jobs.killed_once, (str(tmp_path / "mark"),)),
        (jobs.refuse, ()),
        (jobs.divide, ()),
        (jobs.unpicklable, ()),
    ]
    good = [(jobs.square, (i,)) for i in range(20)]
    order = [pair for i, job in enumerate(bad) for pair in (*good[2 * i : 2 * i + 2], job)] + good[14:]
    with Workers(2) as pool:
        limited = [Job(pair, time_limit=3) for pair in order]
        outcomes = {job.arguments: outcome for job, outcome in pool.map(call, limited)}
    assert len(outcomes) == 27
    assert [outcomes[pair].result() for pair in good] == [i * i for i in range(20)]
    aborted, left, hung, killed, refused, divided, unpicklable = (outcomes[pair].error for pair in bad)
    assert isinstance(aborted, LostError)
    assert "SIGABRT" in str(aborted)
    assert "status 3" in str(left)
    assert "after 3 s" in str(hung)
    assert killed is None
    assert outcomes[bad[3]].value == "done"
    assert type(refused) is SceneError
    assert str(refused) == "a.nc: is cut; get it again"
    assert isinstance(divided, ZeroDivisionError)
    assert any("in divide" in note for note in divided.__notes__), "where it happened is lost"
    assert isinstance(unpicklable, RuntimeError)
    assert "UnpicklableError: 1 and 2" in str(unpicklable)
    with pytest.raises(SceneError):
        outcomes[bad[4]].result()


def test_a_job_whose_process_is_killed_again_and_again_is_given_up(tmp_path: Path) -> None:
    with Workers(1) as pool:
        outcome = outcome_of(pool, jobs.kill_itself)
        assert isinstance(outcome.error, LostError)
        assert outcome.error.killed
        assert "killed" in str(outcome.error)
        # The pool lives on, and its processes end with it.
        pid = outcome_of(pool, jobs.process).result()
        assert outcome_of(pool, jobs.process).result() == pid
    assert not Path(f"/proc/{pid}").exists()


def test_jobs_at_a_time_are_bounded_by_number_and_memory(tmp_path: Path) -> None:
    sizes = {"a": 6, "b": 3, "c": 3, "d": 3, "e": 20, "f": 1}
    with Workers(3, memory=10) as pool:
        list(pool.map(jobs.note_time, [Job((str(tmp_path), name, 0.4), cost) for name, cost in sizes.items()]))
    spans = {name: tuple(map(float, (tmp_path / name).read_text().split())) for name in sizes}
    together = []
    for began, _ in spans.values():
        at_once = {name for name, (first, last) in spans.items() if first <= began < last}
        together.append(at_once)
        assert len(at_once) <= 3
        assert sum(sizes[name] for name in at_once) <= 10 or len(at_once) == 1, at_once
    assert any(len(names) > 1 for names in together), "nothing is done at the same time"
    # What never fits is done alone.
    assert {"e"} in together


def test_processes_that_cannot_start_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_serve", jobs.leave)
    with pytest.raises(ArcticSegError, match="status"), Workers(1) as pool:
        outcome_of(pool, jobs.square, 2)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_processes_end_with_their_parent(tmp_path: Path, sent: signal.Signals) -> None:
    """Even one that holds the interpreter's lock."""
    pid_file = tmp_path / "pid"
    (tmp_path / "parent.py").write_text(f"""
import sys
sys.path.insert(0, {str(Path(jobs.__file__).parent)!r})
import jobs
from shards.workers import Job, Workers

if __name__ == "__main__":
    with Workers(1) as pool:
        list(pool.map(jobs.hang_with_the_lock, [Job(({str(pid_file)!r},))]))
""")
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py")], env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as parent:
        end = time.monotonic() + 60
        while not (pid_file.exists() and pid_file.read_text()):
            assert time.monotonic() < end, "the worker does not begin"
            time.sleep(0.02)
        parent.send_signal(sent)
    worker = int(pid_file.read_text())
    while _alive(worker):
        assert time.monotonic() < end, "the worker outlives its parent"
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_no_jobs_need_no_process() -> None:
    with Workers(0, memory=math.inf) as pool:
        assert list(pool.map(jobs.square, [])) == []
