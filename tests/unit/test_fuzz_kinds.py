"""Some damaged files of each kind; `make fuzz` opens more of them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from arcticseg.errors import SceneError
from tests.fuzz import ENDS, Bounds, fuzz, make
from tests.fuzzed import KINDS, Kind


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_are_refused_or_read(name: str, tmp_path: Path) -> None:
    if name in ("weights", "public"):
        pytest.importorskip("torch")
    result = fuzz(name, range(25), 1, tmp_path)
    assert result.wrong == []
    assert result.ends["accepted"] + result.ends["refused"] == 25
    assert result.ends["refused"] > 0
    assert set(result.ends) <= set(ENDS)


def make_stand_in(folder: Path) -> Path:
    (folder / "file").write_text("honest")
    return folder / "file"


def open_stand_in(path: Path) -> None:
    """Ends otherwise for each number, which is the name of the folder."""
    number = path.parent.name
    if number == "0":
        raise ZeroDivisionError
    if number == "1":
        time.sleep(60)
    if number == "2":
        bytearray(500 << 20)
    if number == "3":
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == "4":
        raise SceneError("mine")


def test_what_is_wrong_is_seen(tmp_path: Path) -> None:
    kind = Kind(make_stand_in, open_stand_in)
    result = fuzz("stand-in", range(6), 1, tmp_path, kind, Bounds(seconds=2.0, memory=400 << 20))
    assert [line.split(": ")[1] for line in result.wrong] == ["traceback", "hang", "memory", "crash"]
    assert (result.ends["refused"], result.ends["accepted"]) == (1, 1)
    assert "ZeroDivisionError" in (tmp_path / "stand-in-1-0" / "said.txt").read_text()
    assert "--kind stand-in --seed 1 --only 3" in (tmp_path / "stand-in-1-3" / "said.txt").read_text()


def test_a_file_follows_from_kind_seed_and_number(tmp_path: Path) -> None:
    honest = tmp_path / "honest" / "list.txt"
    honest.parent.mkdir()
    honest.write_text("a\nb\nc\n" * 20)
    kind = Kind(make_stand_in, open_stand_in)
    copies = [make(kind, [1, 2, n % 30], honest, tmp_path / str(n)).read_bytes() for n in range(60)]
    assert copies[:30] == copies[30:]
    assert len(set(copies[:30])) > 25
