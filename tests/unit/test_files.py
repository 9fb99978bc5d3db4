import errno
import os
from pathlib import Path

import pytest

from arcticseg import system
from arcticseg.errors import OutputError, SceneError
from arcticseg.files import atomic_path, make_folder, write_text
from arcticseg.system import free_bytes, output_errors


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".txt"
        assert temporary.name.startswith(".")
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_text_is_utf8_whatever_the_locale(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "Grönland")
    assert (tmp_path / "a.txt").read_bytes() == "Grönland".encode()


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "No space left on device; free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "Permission denied; choose a folder"),
        (errno.EROFS, "Read-only file system; "),
        (errno.ENOTDIR, "Not a directory; a file stands"),
        (errno.EISDIR, "Is a directory; a folder stands"),
        (errno.ENAMETOOLONG, "File name too long; choose a shorter"),
        (errno.EIO, "Input/output error; "),
    ],
)
def test_failures_to_write_become_one_line_with_a_remedy(tmp_path: Path, number: int, message: str) -> None:
    with pytest.raises(OutputError) as caught, output_errors(tmp_path / "a"):
        raise OSError(number, os.strerror(number))
    assert str(caught.value).startswith(f"{tmp_path}/a: cannot be written: ")
    assert message in str(caught.value)


def test_an_error_without_a_reason_leads_to_the_space_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class GdalError(OSError):
        """Like rasterio's: without a number."""

    for error in (
        RuntimeError("NetCDF: HDF error"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
        PermissionError(errno.EACCES, "Permission denied"),
        GdalError("write failed"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(system, "free_bytes", lambda path: 4096)
            with pytest.raises(OutputError, match="No space left on device"), output_errors(tmp_path):
                raise error
        if not isinstance(error, PermissionError):
            with pytest.raises(type(error)), output_errors(tmp_path):
                raise error


def test_a_reason_in_words_is_understood(tmp_path: Path) -> None:
    class SafetensorsError(Exception):
        """Of a type of its own."""

    words = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(OutputError, match="No space left on device"), output_errors(tmp_path):
        raise SafetensorsError(words)


def test_our_own_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"^mine$"), output_errors(tmp_path):
        raise SceneError("mine")
    with pytest.raises(ValueError, match=r"^other$"), output_errors(tmp_path):
        raise ValueError("other")
    # A file that was to be read while the output was written.
    with pytest.raises(FileNotFoundError), output_errors(tmp_path / "a"):
        (tmp_path / "input").read_text()


def test_make_folder(tmp_path: Path) -> None:
    assert make_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert make_folder(tmp_path / "a" / "b").is_dir()
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match=f"^{place}: .*a file stands"):
            make_folder(place)


def test_write_text_into_nowhere(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=rf"^{tmp_path}/nowhere/a\.txt: .*No such file or directory; "):
        write_text(tmp_path / "nowhere" / "a.txt", "x")


def test_free_bytes_of_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "a" / "b") == pytest.approx(free_bytes(tmp_path), rel=0.1)
    assert free_bytes(tmp_path) > 0
