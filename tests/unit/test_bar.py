"""Progress bars and their plain lines, and the time that work will still take."""

from __future__ import annotations

import pytest

from arcticseg.bar import Pace, ProgressBar, show_time


def test_without_a_terminal_long_work_prints_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 10.0, 30.0, 40.0, 100.0])
    monkeypatch.setattr("arcticseg.bar.time.monotonic", lambda: next(clock))
    bar = ProgressBar("build")
    for done in (0, 1, 2, 4):
        bar.update(done, 8)
    bar.close()
    assert capsys.readouterr().err == "build: 1/8, 2 min left\nbuild: 4/8, 90 s left\n"


def test_lines_have_a_unit_and_text_behind_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar("segment run", "step")
    bar.update(2, 4)
    bar.update(3, 4, "loss 0.5")
    bar.print("validation at step 3: SIC [1]")
    bar.update(4, 4, "loss 0.4")
    bar.close()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "segment run: validation at step 3: SIC [1]\nsegment run: step 4/4, loss 0.4, 0 s left\n"


def test_a_terminal_shows_the_time_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    clock = [0.0]
    monkeypatch.setattr("arcticseg.bar.time.monotonic", lambda: clock[0])
    bar = ProgressBar("build")
    for done in range(3):
        # Far apart, as scenes are.
        clock[0] = 100.0 * done
        bar.update(done, 10)
    bar.close()
    assert "13 min left" in capsys.readouterr().err


def test_time_left_is_of_the_work_since_the_start() -> None:
    pace = Pace()
    assert pace.left(0.0) is None
    # 100 were done by an interrupted run; then 2 in 60 s, each slow.
    pace.tell(100, 200, 1000.0)
    assert pace.text(1010.0) == ""
    pace.tell(102, 200, 1060.0)
    assert pace.left(1060.0) == 98 * 30
    # It goes down while nothing is told.
    assert pace.left(1070.0) == 98 * 30 - 10
    assert pace.left(99_999.0) == 0
    assert pace.text(1060.0) == "49 min left"
    pace.tell(200, 200, 4000.0)
    assert pace.left(5000.0) == 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (120, "2 min"), (3599, "1 h 00 min"), (11_100, "3 h 05 min")]
)
def test_times(seconds: float, text: str) -> None:
    assert show_time(seconds) == text
