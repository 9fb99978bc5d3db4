import warnings

import pytest

from launchers.terminal import note, plain_warnings, progress


def test_without_a_terminal_progress_is_a_line_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("build") as update:
        for done in range(4):
            update(done, 3)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "build: 3/3, 0 s left\n"


def test_without_a_terminal_long_work_says_so_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 10.0, 30.0, 40.0, 100.0])
    monkeypatch.setattr("launchers.terminal.time.monotonic", lambda: next(clock))
    with progress("build") as update:
        for done in (0, 1, 2, 4):
            update(done, 8)
    assert capsys.readouterr().err == "build: 1/8, 210 s left\nbuild: 4/8, 100 s left\n"


def test_warnings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with plain_warnings():
        warnings.warn("3 polygons are masked", stacklevel=1)
    assert capsys.readouterr().err == "arcticseg: warning: 3 polygons are masked\n"


def test_notes_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    note("hello")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "hello\n")
