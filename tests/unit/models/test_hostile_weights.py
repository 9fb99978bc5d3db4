"""Weights files whose header lies are refused in one line, before anything is made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from arcticseg.errors import ConfigError
from arcticseg.products.predictor import load_predictor
from tests.fuzzed import make_weights


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_weights(tmp_path_factory.mktemp("honest"))


def refused(path: Path, header: Any, body: bytes, size: int | None = None) -> str:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if size is None else size).to_bytes(8, "little") + text + body)
    with pytest.raises(ConfigError) as caught:
        load_predictor(path, device="cpu")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def parts(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def test_a_header_that_lies(honest: Path, tmp_path: Path) -> None:
    header, body = parts(honest)
    name = next(key for key in header if key != "__metadata__")
    path = tmp_path / "a.safetensors"
    assert "at most 16,777,216 are read" in refused(path, header, body, 100_000_000)
    refused(path, header, body, (1 << 64) - 1)
    refused(path, b"[" * 100_000, body)
    refused(path, b"{}", b"")
    for change in (
        {"dtype": "pickle"},
        {"dtype": "F8_E4M3"},
        {"shape": [10**9, 10**9]},
        {"shape": [-1]},
        {"data_offsets": [0, 1 << 40]},
        {"data_offsets": [4, 0]},
        {"data_offsets": ["0", "4"]},
    ):
        refused(path, header | {name: header[name] | change}, body)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tile", -5),
        ("tile", 10**9),
        ("tile", "32"),
        ("factors", [10**9]),
        ("factors", ["4"]),
        ("statistics", {"a": [1]}),
        ("statistics", {"a": [float("nan"), 1]}),
        ("simulated", "no"),
        ("config", {"data": {}, "model": {}}),
        ("config", {"data": {}, "model": {"encoder": {"name": "unet", "filters": [10**9]}}, "task": "segment"}),
        ("config", {"data": {}, "model": {"encoder": {"name": "unet", "filters": [8, 16]}}, "task": "segment"}),
        ("config", {"data": {"channels": 5}, "model": {}, "task": "segment"}),
    ],
)
def test_facts_that_cannot_be(honest: Path, tmp_path: Path, key: str, value: Any) -> None:
    header, body = parts(honest)
    header["__metadata__"][key] = json.dumps(value)
    refused(tmp_path / "a.safetensors", header, body)
    header["__metadata__"][key] = "[" * 50_000
    refused(tmp_path / "a.safetensors", header, body)
