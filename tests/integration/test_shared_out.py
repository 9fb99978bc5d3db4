"""`--part I/N`: scenes shared out among the tasks of a job array."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.archive import contents
from tests.failing import assert_fails, build, not_netcdf
from tests.forked import Forked, run
from tests.shared_out import archive, same_files, scores

pytestmark = pytest.mark.slow


def part(number: int, of: int) -> list[str]:
    return ["--part", f"{number}/{of}"]


def test_shards_by_four_tasks_of_which_one_is_killed(tmp_path: Path) -> None:
    place, out = archive(tmp_path / "in", 8), tmp_path / "out"
    done = run(*build(place, tmp_path / "alone"))
    assert done.returncode == 0, done.stderr
    alone = done.stdout

    command = [*build(place, out), "--workers", "1"]
    killed = Forked("launchers.cli", [*command, *part(3, 4)])
    others = [Forked("launchers.cli", [*command, *part(number, 4)]) for number in (1, 2)]
    end = time.monotonic() + 120
    stopped = False
    # At work: its file says so, and a scene of its own is open.
    while not (stopped and (out / ".build.3-of-4.lock").exists() and list((out / ".parts").glob(".*.tmp.tar"))):
        assert killed.poll() is None
        assert time.monotonic() < end
        first = out / ".build.1-of-4.lock"
        # Locked and signed.
        if not stopped and first.exists() and first.read_text().startswith("process "):
            others[0].send_signal(signal.SIGSTOP)
            stopped = True
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(60)
    assert_fails(run(*build(place, out)), out, "part 1/4 of a build works here (process ")
    others[0].send_signal(signal.SIGCONT)
    for process in others:
        stdout, stderr = process.communicate(120)
        assert process.returncode == 0, stderr
        assert "2 of 2 scenes are ready" in stdout
    ready = len(list((out / ".parts").glob("[a-z]*.tar")))
    assert 4 <= ready <= 5
    done = run(*command, *part(4, 4))
    assert f"part 4/4: 2 of 2 scenes are ready; {6 - ready} of all 8 are left; " in done.stdout, done.stderr
    done = run(*build(place, out))
    assert done.returncode == 0, done.stderr
    assert done.stdout == alone
    assert contents(out) == contents(tmp_path / "alone")
    assert "part 1/4: the shards are finished\n" in run(*command, *part(1, 4)).stdout


def test_charts_and_scores_by_two_tasks_at_a_time(tmp_path: Path, weights: Path) -> None:
    place = archive(tmp_path / "in", 4)
    bad = not_netcdf(place)
    evaluate = ("evaluate", weights, place, "--no-maps", "--out")
    alone = run(*evaluate, tmp_path / "alone")
    assert alone.returncode == 1, alone.stderr
    tasks = [Forked("launchers.cli", [*evaluate, tmp_path / "out", *part(number, 2)]) for number in (1, 2)]
    told = [(*task.communicate(120), task.returncode) for task in tasks]
    # The bad scene is the smallest: dealt last, to the first task.
    assert [status for _, _, status in told] == [1, 0], told
    assert told[1][0] == "part 2/2: 2 of 2 scenes are done; the same command without --part gives the scores of all\n"
    assert str(bad) in told[0][1]
    assert not (tmp_path / "out" / "evaluation.json").exists()
    done = run(*evaluate, tmp_path / "out")
    assert done.returncode == 1, done.stderr
    assert "4 of 5 scenes were finished before" in done.stderr
    assert scores(tmp_path / "out") == scores(tmp_path / "alone")
    assert scores(tmp_path / "out")["n_scenes"] == 4

    bad.unlink()
    predict = ("predict", weights, place, "--products", "netcdf,geotiff", "--out")
    assert run(*predict, tmp_path / "one").returncode == 0
    for number in (1, 2):
        done = run(*predict, tmp_path / "two", *part(number, 2))
        assert done.returncode == 0, done.stderr
        assert f"part {number}/2: 2 of 4 scenes\n" in done.stderr
    same_files(tmp_path / "one", tmp_path / "two", 8)
    # More tasks than scenes.
    done = run(*predict, tmp_path / "two", *part(9, 9))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_parts_that_cannot_be(tmp_path: Path, weights: Path, verb: str) -> None:
    done = run(verb, weights, archive(tmp_path / "in", 1), "--out", tmp_path / "out", *part(5, 4))
    assert done.returncode == 2
    assert "--part is '5/4'; set I/N with I from 1 to N" in done.stderr
    assert not (tmp_path / "out").exists()
