"""Files that the system does not let be written or read, really caused; with one remedy each."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO

import netCDF4
import numpy as np
import pytest
import rasterio
from matplotlib.image import imsave

from arcticseg.errors import OutputError
from arcticseg.files import append_line, atomic_path, make_folder, write_text
from arcticseg.system import REFUSALS, output_errors, told, why_unread

ASKED = (
    *("EFBIG", "EMFILE", "ENFILE", "ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM"),
    *("ENAMETOOLONG", "ELOOP", "ENOTDIR", "EISDIR", "ESTALE", "EIO", "ENOMEM"),
)
FORK = multiprocessing.get_context("fork")


@pytest.mark.parametrize("name", ASKED)
def test_each_refusal_has_a_remedy_for_reading_and_writing(tmp_path: Path, name: str) -> None:
    number = getattr(errno, name)
    said = os.strerror(number)
    with pytest.raises(OutputError) as caught, output_errors(tmp_path / "a"):
        raise OSError(number, said)
    assert str(caught.value) == f"{tmp_path}/a: cannot be written: {said}; {REFUSALS[number].writing}"
    expected = f"cannot be read ({REFUSALS[number].reason}); {REFUSALS[number].reading}"
    assert why_unread(OSError(number, said), "build it") == expected
    assert told(OSError(number, said, "b")) == f"b: {said}; {REFUSALS[number].reading}"
    assert all(REFUSALS[number])


def test_other_errors_pass() -> None:
    assert told(OSError(errno.ECONNREFUSED, "x")) is None
    assert why_unread(OSError(errno.ECONNREFUSED, "x"), "build it") == "cannot be read (x); build it"
    missing = FileNotFoundError(errno.ENOENT, "No such file or directory")
    assert why_unread(missing, "build it") == "cannot be read (No such file or directory); build it"


# Each library that writes files here, writing one of 3 MB -------------------------------------------------------------

NOISE = np.random.default_rng(0).integers(0, 255, 3_000_000).astype(np.uint8)


def write_a_text(out: Path) -> None:
    write_text(out, "x" * len(NOISE))


def write_a_netcdf(out: Path) -> None:
    with atomic_path(out) as temporary, netCDF4.Dataset(temporary, "w") as file:
        file.createDimension("n", len(NOISE))
        file.createVariable("a", "u1", ("n",))[:] = NOISE


def write_a_geotiff(out: Path) -> None:
    shape = {"height": 1500, "width": 2000, "count": 1, "dtype": "uint8", "driver": "GTiff"}
    with atomic_path(out) as temporary, rasterio.open(temporary, "w", **shape) as file:
        file.write(NOISE.reshape(1, 1500, 2000))


def write_a_picture(out: Path) -> None:
    with atomic_path(out) as temporary:
        imsave(temporary, NOISE.reshape(1000, 1000, 3))


def write_weights(out: Path) -> None:
    from safetensors.numpy import save_file

    with atomic_path(out) as temporary:
        save_file({"a": NOISE}, temporary)


WRITERS = {
    ".txt": write_a_text,
    ".nc": write_a_netcdf,
    ".tif": write_a_geotiff,
    ".png": write_a_picture,
    ".safetensors": write_weights,
}


def said(write: Callable[[Path], None], out: Path, limit: Callable[[], object]) -> str:
    """What a writer says in a process under a limit; `no error` where it says nothing."""
    receiver, sender = FORK.Pipe(duplex=False)

    def child() -> None:
        kept = limit()
        try:
            write(out)
            text = "no error"
        except OutputError as error:
            text = str(error)
        except BaseException as error:
            text = f"a traceback: {error!r}, after {error.__cause__!r}"
        del kept
        sender.send(text)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks beside threads
        process = FORK.Process(target=child)
        process.start()
    sender.close()
    text = str(receiver.recv())
    process.join()
    return text


def small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))


def few_files() -> list[IO[str]]:
    """Open as many as are allowed."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    held = []
    with contextlib.suppress(OSError):
        while True:
            held.append(open(os.devnull))  # noqa: SIM115  held until the writer has failed
    return held


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize(("limit", "number"), [(small_files, errno.EFBIG), (few_files, errno.EMFILE)])
def test_limits_of_the_system(suffix: str, limit: Callable[[], object], number: int, tmp_path: Path) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors.numpy")
    write, out = WRITERS[suffix], tmp_path / f"a{suffix}"
    expected = f"{out}: cannot be written: {os.strerror(number)}; {REFUSALS[number].writing}"
    assert said(write, out, limit) == expected
    assert list(tmp_path.iterdir()) == []
    assert said(write, out, lambda: None) == "no error"


def test_names_and_places_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    for out, number in (
        (tmp_path / ("x" * 300), errno.ENAMETOOLONG),
        (tmp_path / "circle" / "a", errno.ELOOP),
        (tmp_path / "file" / "a", errno.ENOTDIR),
        (tmp_path / "folder", errno.EISDIR),
        (tmp_path / "nowhere" / "a", errno.ENOENT),
    ):
        with pytest.raises(OutputError) as caught:
            write_text(out, "x")
        assert str(caught.value).endswith(f"cannot be written: {os.strerror(number)}; {REFUSALS[number].writing}")
    with pytest.raises(OutputError, match="File name too long; choose a shorter"):
        make_folder(tmp_path / ("x" * 300))
    with pytest.raises(OutputError, match="No space left on device; free some"):
        append_line(Path("/dev/full"), "x")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_command_says_it_in_one_line(tmp_path: Path) -> None:
    """`shards split` under a limit of open files and of a file's size."""
    names = [f"S1A_EW_GRDM_1SDH_2018{month:02d}{day:02d}T100000" for month in range(1, 13) for day in range(1, 29)]
    names_file = tmp_path / "all.json"
    names_file.write_text(json.dumps(names))
    command = [
        sys.executable,
        "-m",
        "launchers.cli",
        "shards",
        "split",
        tmp_path / "all.json",
        "--out",
        tmp_path / "out",
    ]

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=small, check=False)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("arcticseg: error: ")]
    assert "File too large; it is larger than this system allows" in line
    assert "Traceback" not in done.stderr
