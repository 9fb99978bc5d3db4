"""Weights files read, and given to a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from arcticseg.documents import DocumentError, each, flag, mapping, number, parse_json, plain, record, text, whole
from arcticseg.errors import ConfigError
from arcticseg.ice import denoising
from arcticseg.ice.tiling import LARGEST_FACTOR, LARGEST_TILE
from arcticseg.shown import brief

# Key of the metadata of a weights file; files of version 0.1 have none.
CHECKSUM = "checksum"

_PREFIX = "encoder."
# Bytes of a header that are read, and objects and arrays in it: three a tensor.
_HEADER_BYTES, _HEADER_CONTAINERS = 16 << 20, 1 << 18
_KINDS = text("F64|F32|F16|BF16|I64|I32|I16|I8|U8|BOOL", "a type of numbers that weights have")
_TENSOR = record({"dtype": _KINDS, "shape": each(whole(), most=16), "data_offsets": each(whole(), 2, 2)})
_SECTION = mapping(text(), plain)
_CHECK_FACTS = record(
    {
        "config": record({"data": _SECTION, "model": _SECTION, "task": text()}, plain),
        "statistics": mapping(text(), each(number(), 2, 2)),
        "tile": whole(1, LARGEST_TILE),
        "factors": each(whole(1, LARGEST_FACTOR), 1, 64),
        "simulated": flag,
    }
)
# Beside weights in the layout of another project.
_CHECK_PUBLIC = record(
    {
        "planes": each(text(), 1, 1 << 10),
        "statistics": mapping(text(), each(number(), 2, 2)),
        "tile": whole(1, LARGEST_TILE),
        "factors": each(whole(1, LARGEST_FACTOR), 1, 64),
        "simulated": flag,
    }
)
# Key of the metadata of such a file, JSON of these.
PUBLIC = "arcticseg"
# Other keys, each JSON.
_FACTS = ("config", "statistics", "tile", "factors", "simulated")


def load_encoder(model: nn.Module, state_dict: Mapping[str, Tensor], path: str | Path) -> list[str]:
    """Give `model` the encoder of a pretrained autoencoder or segmenter; the rest stays as it is.

    state_dict: theirs; only its `encoder.*` is used. path: where it came from, for the message. Returns the names
    loaded. Raises ConfigError if the encoders differ in any name or shape; the model is unchanged then.
    """
    given = {name: value for name, value in state_dict.items() if name.startswith(_PREFIX)}
    own = {name: value for name, value in model.state_dict().items() if name.startswith(_PREFIX)}
    if not given:
        raise ConfigError(
            f"{path}: no encoder weights in it ({len(state_dict)} entries); give a pretraining checkpoint"
        )
    differing = [name for name in own if name in given and given[name].shape != own[name].shape]
    if differing:
        name = differing[0]
        hint = {
            "encoder.pos_embed": "set the same tile and patch size",
            "encoder.patch_embed.proj.weight": "set the same input channels and patch size",
        }.get(name, "set the same encoder")
        raise ConfigError(
            f"{path}: {name} has shape {tuple(given[name].shape)}, the model needs {tuple(own[name].shape)} "
            f"({len(differing)} of {len(own)} encoder weights differ); {hint} as in the pretraining"
        )
    if own.keys() != given.keys():
        missing, surplus = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
        raise ConfigError(
            f"{path}: another encoder: {len(missing)} weights missing ({missing[0] if missing else '-'}), "
            f"{len(surplus)} unknown ({surplus[0] if surplus else '-'}); set the same encoder as in the pretraining"
        )
    model.load_state_dict(given, strict=False)
    return list(given)


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] = {}) -> str:
    """xxh3-128 over name, dtype, shape and bytes of each tensor and over the metadata, in order of names."""
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}\x1f{tensor.dtype}\x1f{list(tensor.shape)}\x1e".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    for key, value in sorted(metadata.items()):
        if key != CHECKSUM:
            digest.update(f"{key}\x1f{value}\x1e".encode())
    return digest.hexdigest()


def sealed(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata to write beside tensors, with their checksum."""
    return {**metadata, CHECKSUM: checksum(tensors, metadata)}


def load_weights(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Weights by name, and the metadata beside them.

    Raises:
        ConfigError: the file is no weights file of this project, it is damaged, or a weight is NaN or infinite.
    """
    try:
        weights, metadata = read_safetensors(path)
    except (OSError, DocumentError) as error:
        raise ConfigError(f"{path}: cannot be read as weights ({error}); give a .safetensors file of a run") from error
    if "config" not in metadata:
        raise ConfigError(f"{path}: holds no config; give a .safetensors file of a run")
    verify(path, weights, metadata)
    return weights, metadata


def verify(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """See that weights are as they were written, and numbers.

    Raises:
        ConfigError: the file is damaged, or a weight is NaN or infinite.
    """
    if CHECKSUM in metadata and metadata[CHECKSUM] != checksum(weights, metadata):
        raise ConfigError(
            f"{path}: is damaged: its checksum is not that of its tensors; copy the file again or use other weights of "
            "the run"
        )
    for name, weight in weights.items():
        check_finite(path, name, weight)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file by name, and its metadata.

    Raises:
        OSError: it cannot be opened.
        DocumentError: it is no such file.
    """
    from safetensors import SafetensorError, safe_open

    _check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118  not a dict
    except SafetensorError as error:
        raise DocumentError(str(error)) from error


def _check_header(path: Path) -> None:
    """See that a file begins as weights do: its length in 8 bytes, then JSON of tensors and texts.

    Whether the tensors lie where it says, one behind the other to the end of the file, safetensors checks.

    Raises:
        DocumentError: it does not.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _HEADER_BYTES:
            raise DocumentError(f"its header has {length:,} bytes; at most {_HEADER_BYTES:,} are read")
        header = parse_json(file.read(length), _HEADER_CONTAINERS)
    mapping(text(), lambda _: None)(header)
    mapping(text(), text(longest=_HEADER_BYTES))(header.pop("__metadata__", {}))
    mapping(text(), _TENSOR)(header)


def check_fits(path: Path, own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """See that weights are those of the network that the config beside them describes.

    Args:
        own: names and tensors of the network, which may be on the meta device.

    Raises:
        ConfigError: a name or a shape differs.
    """
    differing = sorted(own.keys() ^ weights.keys()) or [
        name for name, tensor in own.items() if tensor.shape != weights[name].shape
    ]
    if differing:
        raise ConfigError(
            f"{path}: its tensors are not those of the network in its metadata ({brief(differing[0])} is the first of "
            f"{len(differing)} that differ); give a .safetensors file of a run, as it was written"
        )


def facts_of(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What stands beside weights: `config` with its sections `data` and `model`, `statistics`, `tile` and so on.

    Raises:
        ConfigError: it is not what a run of this project writes.
    """
    try:
        facts = {key: parse_json(metadata[key], _HEADER_CONTAINERS) for key in _FACTS}
        _CHECK_FACTS(facts)
        # Weights of earlier versions do not say it.
        seen = parse_json(metadata.get("denoising", "[]"), _HEADER_CONTAINERS)
        plain(seen)
        facts["denoising"] = denoising.known(seen)
    except (KeyError, TypeError, ValueError) as error:
        told = f"{type(error).__name__}: {error} in its metadata"
        raise ConfigError(
            f"{path}: is not of a run of ArcticSeg ({told}); give a run folder or a .safetensors file of a run"
        ) from error
    return facts


def public_facts(path: Path, metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """What `export` writes beside weights in another layout: planes, statistics, tile and factors; None: nothing.

    Raises:
        ConfigError: it is not that.
    """
    if PUBLIC not in metadata:
        return None
    try:
        facts: dict[str, Any] = parse_json(metadata[PUBLIC], _HEADER_CONTAINERS)
        _CHECK_PUBLIC(facts)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: its metadata is damaged ({error}); export it again") from error
    return facts


def check_finite(path: Path, name: str, weight: Tensor) -> None:
    """See that a weight holds numbers.

    Raises:
        ConfigError: some are NaN or infinite.
    """
    n_bad = int((~torch.isfinite(weight)).sum())
    if n_bad:
        number = "NaN" if weight.isnan().any() else "infinite"
        raise ConfigError(
            f"{path}: tensor '{name}' is {number} in {n_bad} of {weight.numel()} values; use other weights of the run, "
            "or train again with a lower learning rate"
        )
