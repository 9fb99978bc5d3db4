"""Files of other projects: read without running anything in them, refused in one line where they cannot be weights."""

from __future__ import annotations

import pickle
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import save_file

from arcticseg.errors import ConfigError
from arcticseg.models.exchange.tensors import read_tensors

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.half": torch.ones(2, dtype=torch.bfloat16)}


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_tensors(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    assert "; " in text
    assert len(text) < 700
    return text


@pytest.mark.parametrize("wrap", ["bare", "model", "state_dict", "module"])
@pytest.mark.parametrize("new", [True, False])
def test_tensors_come_from_what_trainers_write(wrap: str, new: bool, tmp_path: Path) -> None:
    wrapped: Any = TENSORS if wrap == "bare" else {wrap: TENSORS, "epoch": 3, "optimizer": {"state": {0: [1.0]}}}
    if wrap == "module":
        wrapped = {"state_dict": {f"module.{name}": value for name, value in TENSORS.items()}}
    torch.save(wrapped, tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    tensors, metadata = read_tensors(tmp_path / "w.pth")
    assert metadata == {}
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())


def test_safetensors_come_with_their_metadata(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "w.bin", metadata={"format": "pt"})
    tensors, metadata = read_tensors(tmp_path / "w.bin")
    assert torch.equal(tensors["a.weight"], TENSORS["a.weight"])
    assert metadata == {"format": "pt"}


class Touch:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("new", [True, False])
def test_code_in_a_file_is_not_run(new: bool, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    torch.save({"state_dict": TENSORS, "args": Touch(victim)}, tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    text = refused(tmp_path / "w.pth")
    assert "could run code" in text
    assert "weights_only=False)['state_dict'], NEW)" in text
    assert not victim.exists()
    torch.save({"model": TENSORS, "args": Namespace(lr=1.0)}, tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    assert "argparse.Namespace" in refused(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(3),
        [torch.ones(3)],
        {"model": {"a": 1}},
        {},
        {3: torch.ones(2)},
        {"a": torch.ones(2, 2).to_sparse()},
        {"a": torch.ones(1).expand(1 << 40)},
        {"a": torch.ones(2, dtype=torch.complex64)},
    ],
    ids=["a tensor", "a list", "no tensors", "nothing", "numbers", "sparse", "expanded", "complex"],
)
def test_what_is_not_tensors_by_name_is_refused(value: Any, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "w.pth")
    refused(tmp_path / "w.pth")


def test_two_networks_in_one_file_are_refused(tmp_path: Path) -> None:
    torch.save({"model": TENSORS, "state_dict": TENSORS}, tmp_path / "w.pth")
    assert "several networks (state_dict, model)" in refused(tmp_path / "w.pth")


def test_a_file_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(TENSORS, path)
    data = path.read_bytes()
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(tmp_path / "c.pth", "w", zipfile.ZIP_DEFLATED) as after:
        for name in before.namelist():
            after.writestr(name, before.read(name))
    assert "compressed" in refused(tmp_path / "c.pth")
    for cut in (1, 3, 40, len(data) // 2, len(data) - 3):
        path.write_bytes(data[:cut])
        refused(path)
    path.write_bytes(b"")
    refused(path)


def test_other_pickles_are_refused(tmp_path: Path) -> None:
    for protocol in (2, 4):
        (tmp_path / "w.pkl").write_bytes(pickle.dumps({"a": [1.0, 2.0]}, protocol))
        refused(tmp_path / "w.pkl")
    refused(tmp_path / "nowhere.pth")
    (tmp_path / "folder.pth").mkdir()
    refused(tmp_path / "folder.pth")
