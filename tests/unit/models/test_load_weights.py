"""Weights files, and the encoder of a pretraining."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import save_file

from arcticseg.engine.weights import write_weights
from arcticseg.errors import ConfigError
from arcticseg.models.build import build_autoencoder, build_segmenter
from arcticseg.models.segmenter import Segmenter
from arcticseg.models.weights import checksum, facts_of, load_encoder, load_weights, sealed
from tests.networks import VIT, small


def segmenter() -> Segmenter:
    torch.manual_seed(0)
    return build_segmenter(small("light"), 4, 32)


def pretrained(in_chans: int = 4, tile: int = 32, **changes: Any) -> dict[str, torch.Tensor]:
    model = small("light", encoder=VIT | changes)
    mae = build_autoencoder(model, in_chans, tile, 2, decoder_dim=16, decoder_depth=1, decoder_heads=2)
    return {name: value + 1 for name, value in mae.state_dict().items()}


def test_load_encoder_takes_the_encoder_and_nothing_else() -> None:
    model, theirs = segmenter(), pretrained()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loaded = load_encoder(model, theirs, "mae.pt")
    assert sorted(loaded) == sorted(name for name in before if name.startswith("encoder."))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, theirs[name] if name in loaded else before[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"in_chans": 5}, r"mae\.pt: encoder\.patch_embed\.proj\.weight .*\(32, 5, 8, 8\).*input channels"),
        ({"tile": 64}, r"mae\.pt: encoder\.pos_embed .*\(1, 65, 32\).*tile"),
        ({"depth": 5}, r"mae\.pt: .*encoder\.blocks\.4"),
        ({"depth": 3}, r"mae\.pt: .*encoder\.blocks\.3"),
    ],
)
def test_load_encoder_refuses_another_encoder(changes: dict[str, int], told: str) -> None:
    model = segmenter()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ConfigError, match=told):
        load_encoder(model, pretrained(**changes), "mae.pt")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_load_encoder_from_a_file_without_one() -> None:
    with pytest.raises(ConfigError, match=r"other\.pt: no encoder weights"):
        load_encoder(segmenter(), {"weight": torch.zeros(1)}, "other.pt")


def test_a_weights_file_gives_tensors_and_what_stands_beside_them(tmp_path: Path) -> None:
    save_file({"a": torch.arange(3.0)}, tmp_path / "w.safetensors", metadata={"config": "{}", "tile": "32"})
    weights, metadata = load_weights(tmp_path / "w.safetensors")
    assert weights["a"].tolist() == [0, 1, 2]
    assert metadata == {"config": "{}", "tile": "32"}


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("no weights")
    save_file({"a": torch.arange(3.0)}, tmp_path / "bare.safetensors")
    for name in ("text", "bare", "nowhere"):
        with pytest.raises(ConfigError, match=rf"{name}\.safetensors: .*a run"):
            load_weights(tmp_path / f"{name}.safetensors")


TENSORS = {
    "scalar": torch.tensor(3),
    "bias": torch.arange(3.0),
    "half": torch.ones(2, 2, dtype=torch.bfloat16),
    "none": torch.zeros(0, 4),
}


def test_a_checksum_is_of_names_types_shapes_bytes_and_metadata() -> None:
    whole = checksum(TENSORS, {"tile": "32"})
    assert whole == checksum(dict(reversed(TENSORS.items())), {"tile": "32", "checksum": "of itself"})
    others = [
        TENSORS | {"bias": torch.tensor([0.0, 1.0, 2.0000002])},
        TENSORS | {"bias": TENSORS["bias"].view(torch.int32)},
        TENSORS | {"bias": TENSORS["bias"][None]},
        TENSORS | {"none": torch.zeros(4, 0)},
        TENSORS | {"more": torch.zeros(0)},
        {("weight" if name == "bias" else name): tensor for name, tensor in TENSORS.items()},
    ]
    sums = [checksum(tensors, {"tile": "32"}) for tensors in others]
    assert len({whole, checksum(TENSORS), checksum(TENSORS, {"tile": "64"}), *sums}) == 3 + len(others)


def test_a_flipped_bit_is_seen_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(TENSORS, path, metadata=sealed(TENSORS, {"config": "{}", "tile": "32"}))
    weights, _ = load_weights(path)
    assert weights.keys() == TENSORS.keys()
    data = path.read_bytes()
    # The header ends where the tensors begin: 8 + 4 x 4 + 3 x 4 bytes from the end.
    places = [*range(len(data) - 28, len(data)), data.index(b'"tile":"32"') + 8, data.index(b"bias")]
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"w\.safetensors: is damaged.*;"):
            load_weights(path)
    path.write_bytes(data[:-5])
    with pytest.raises(ConfigError, match=r"w\.safetensors"):
        load_weights(path)


def test_the_weights_of_a_run_carry_their_checksum(tmp_path: Path) -> None:
    write_weights(tmp_path / "w.safetensors", TENSORS, {"config": "{}"})
    weights, metadata = load_weights(tmp_path / "w.safetensors")
    assert metadata["checksum"] == checksum(weights, {"config": "{}"})


@pytest.mark.parametrize(("number", "told"), [("nan", "NaN"), ("inf", "infinite"), ("-inf", "infinite")])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path: Path, number: str, told: str) -> None:
    tensors = TENSORS | {"head.bias": torch.tensor([1.0, float(number), 2.0])}
    for metadata in ({"config": "{}"}, sealed(tensors, {"config": "{}"})):
        save_file(tensors, tmp_path / "w.safetensors", metadata=metadata)
        with pytest.raises(ConfigError, match=rf"w\.safetensors: tensor 'head\.bias' is {told} in 1 of 3 values; "):
            load_weights(tmp_path / "w.safetensors")


GOOD = {"task": "segment", "data": {}, "model": {}}
FACTS = {"config": GOOD, "statistics": {}, "tile": 32, "factors": [4], "simulated": False}


def beside(**changes: object) -> dict[str, str]:
    """Metadata in which some facts are others; None: absent."""
    return {key: json.dumps(value) for key, value in (FACTS | changes).items() if value is not None}


def test_what_stands_beside_weights_is_read_once() -> None:
    assert facts_of(Path("w.safetensors"), beside()) == FACTS | {"denoising": []}


@pytest.mark.parametrize(
    "metadata",
    [
        beside(config={"llama": 1}),
        beside(config={**GOOD, "model": "llama"}),
        beside(config=None),
        beside(tile=None),
        beside(factors=[]),
        beside(factors=2),
        beside() | {"config": "not json"},
    ],
)
def test_weights_of_another_program_are_refused(metadata: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"^w\.safetensors: is not of a run of ArcticSeg"):
        facts_of(Path("w.safetensors"), metadata)
