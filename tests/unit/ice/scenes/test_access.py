import errno
import fcntl
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import netCDF4
import pytest

from arcticseg.errors import SceneError
from arcticseg.ice.scenes import hdf5
from arcticseg.ice.scenes.access import reading
from arcticseg.ice.scenes.open import open_scene
from tests import scenes

HOLD = "import sys, h5py; file = h5py.File(sys.argv[1], 'r+'); print('held', flush=True); sys.stdin.read()"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return scenes.write_raw(tmp_path_factory.mktemp("sound") / "a.nc", lines=60, samples=70).read_bytes()


@pytest.fixture
def path(tmp_path: Path, sound: bytes) -> Path:
    path = tmp_path / "a.nc"
    path.write_bytes(sound)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(SceneError, match=rf"^{path}: cannot be read \(.*\); ") as caught:
        open_scene(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_scene_that_is_being_written_is_locked(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        said = refusal(path)
        writer.kill()
    assert "has locked it" in said
    assert "damaged" not in said
    open_scene(path).close()


def test_an_empty_file(path: Path) -> None:
    os.truncate(path, 0)
    assert "it is empty" in refusal(path)


def test_half_a_file(path: Path) -> None:
    whole = path.stat().st_size
    os.truncate(path, whole // 2)
    said = refusal(path)
    assert f"it ends after {whole // 2} of {whole} bytes" in said
    assert "still being copied" in said


def test_other_bytes_are_damage(path: Path) -> None:
    path.write_bytes(b"no scene at all " * 99)
    assert "it is damaged or cut" in refusal(path)


def test_a_file_that_its_writer_never_closed(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    # Only the latest format marks a file as open; without locks the mark is all that there is.
    killed = (
        "import sys, os, h5py; file = h5py.File(sys.argv[1], 'w', libver='latest'); file['x'] = [1.0]; file.flush(); "
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", killed, path], check=False)
    assert "its writer has not closed it" in refusal(path)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.EACCES, "you may not read it"),
        (errno.EMFILE, "too many files"),
        (errno.ENFILE, "too many files"),
        (errno.EAGAIN, "locked"),
        (errno.EIO, "the disk or the file server fails"),
        (errno.ESTALE, "the file server fails"),
        (errno.ENOENT, "not there any more"),
        (errno.EOVERFLOW, "larger than this system"),
    ],
)
def test_errors_of_the_system_have_remedies(path: Path, number: int, text: str) -> None:
    with pytest.raises(SceneError, match=rf"^{path}: cannot be read \(.*{text}.*\); "), reading(path):
        raise OSError(number, os.strerror(number))


def test_a_file_system_without_locks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(SceneError, match=r"gives no locks\); set HDF5_USE_FILE_LOCKING=FALSE"), reading(path):
        raise OSError(-101, "NetCDF: HDF error")


def test_too_little_memory(path: Path) -> None:
    with pytest.raises(SceneError, match=r"too large for the memory of this machine; use"), reading(path):
        raise MemoryError


def test_a_variable_is_named(path: Path) -> None:
    with pytest.raises(SceneError, match=rf"^{path}: t2m cannot be read \(boom\); it is damaged"), reading(path, "t2m"):
        raise RuntimeError("boom\nand more")


@contextmanager
def limited(files: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_too_many_open_files_are_no_damage(path: Path) -> None:
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    spare = [os.open(path, os.O_RDONLY) for _ in range(used + 2)]
    try:
        with limited(max(spare) + 1):
            assert "too many files are open" in refusal(path)
    finally:
        for number in spare:
            os.close(number)


def test_a_name_that_is_too_long() -> None:
    with pytest.raises(SceneError, match=r"its name is too long"):
        open_scene("a" * 300 + ".nc")


def test_names_that_look_like_addresses_are_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sound: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("http:/localhost:1/a.nc", "a#mode=bytes.nc", "dods:/localhost:1/b.nc", "[mode=zarr]a.nc"):
        file = Path(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(sound)
        with open_scene(file) as scene:
            assert scene.shape == (60, 70)
    for address in ("http://localhost:1/c.nc", "https://localhost:1/c.nc", "file:///etc/hostname#mode=bytes"):
        with pytest.raises(SceneError, match="no such file"):
            open_scene(address)


def test_files_of_netcdf_3_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    variables = scenes.raw(60, 70, chart=False)
    del variables["amsr2_swath_map"]
    with netCDF4.Dataset(path, "w", format="NETCDF3_64BIT_OFFSET") as file:
        for name, (dims, values) in variables.items():
            for dim, length in zip(dims, values.shape, strict=True):
                if dim not in file.dimensions:
                    file.createDimension(dim, length)
            file.createVariable(name, values.dtype, dims)[:] = values
    with open_scene(path) as scene:
        assert (scene.sar("hh")[:, 3:] == variables["nersc_sar_primary"][1][:, 3:]).all()


def interrupted(*_: object, **__: object) -> None:
    """What Python raises where Ctrl-C comes within native code."""
    raise SystemError("a function returned a result with an exception set") from KeyboardInterrupt()


def test_ctrl_c_within_native_code_is_no_damage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt), reading(path):
        interrupted()
    monkeypatch.setattr(h5py, "File", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hdf5.read_chunked(path, "nersc_sar_primary", 1)
    with pytest.raises(KeyboardInterrupt):
        open_scene(path)
