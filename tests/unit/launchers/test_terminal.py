"""What commands print while they work."""

from __future__ import annotations

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


def test_a_warning_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with plain_warnings():
        warnings.warn("3 polygons are masked", stacklevel=1)
    assert capsys.readouterr().err == "arcticseg: warning: 3 polygons are masked\n"


def test_notes_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    note("hello")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "hello\n")
