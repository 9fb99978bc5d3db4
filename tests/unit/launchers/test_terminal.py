"""What commands print while they work."""

from __future__ import annotations

import warnings

import pytest

from arcticseg.run.migrate import renamed
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


def test_a_warning_is_shown_once_on_rank_0_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        with plain_warnings():
            for _ in range(3):
                renamed({"model": {"unet_filters": [4]}})
        assert (
            capsys.readouterr().err.splitlines()
            == ["arcticseg: warning: key 'model.unet_filters' is now 'model.encoder.filters'; write that"] * lines
        )


def test_warnings_of_other_packages_are_shown_as_ever() -> None:
    with pytest.warns(UserWarning, match="theirs"), plain_warnings():
        warnings.warn_explicit("theirs", UserWarning, "/v/lib/python3.11/site-packages/torch/nn/a.py", 1)


def test_notes_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    note("hello")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "hello\n")
