"""Weights files: float32 weights of a whole network, with the config that they need."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arcticseg import config
from arcticseg.engine.process_group import Ranks, agree, sum_over_ranks
from arcticseg.engine.whole import whole_tensors
from arcticseg.errors import ArcticSegError
from arcticseg.files import atomic_path, make_folder
from arcticseg.models.config import LoRAConfig
from arcticseg.models.lora import is_adapter, merged
from arcticseg.models.weights import sealed


def save_weights(
    engine: Any,
    path: Path,
    metadata: dict[str, str],
    step: int,
    ranks: Ranks,
    instead: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the whole network's weights with the config that they need; every rank must call it.

    Args:
        instead: of rank 0, name -> whole tensor that takes the place of the engine's.

    Raises:
        ArcticSegError: a weight is NaN or infinite.
        OutputError: the file cannot be written.
    """
    check_engine(engine, step)
    module = full_module(engine, ranks)
    error = None
    if module is not None:
        weights = network_weights(module | dict(instead or {}), metadata)
        try:
            write_weights(path, weights, metadata)
        except ArcticSegError as caught:
            error = caught
    agree(error)


def write_weights(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a weights file.

    Raises:
        OutputError: it cannot be written.
    """
    from safetensors.torch import save_file

    make_folder(path.parent)
    with atomic_path(path) as temporary:
        save_file(dict(weights), temporary, metadata=sealed(weights, metadata))


def full_module(engine: Any, ranks: Ranks) -> dict[str, Tensor] | None:
    """All weights and buffers of what an engine trains, on the CPU of rank 0; None on the others; every rank must call
    it.

    They are the float32 masters, not the rounded copy that the network computes with.
    """
    # To the host as they come: all of them together need not fit beside the training on the device.
    tensors = {name.partition("/")[2]: value.detach().cpu() for name, value in whole_tensors(engine, ranks, owner=0)}
    return tensors if ranks.is_main else None


def network_weights(module: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """The network's weights, float32, of those of what an engine trains, which may be an `Objective` around it.

    They are those of the plain network: adapters are merged into it.

    Args:
        metadata: stored with the weights, whose config says what the adapters are.
    """
    prefix = "network."
    if all(name.startswith((prefix, "task.")) for name in module):
        module = {name.removeprefix(prefix): module[name] for name in module if name.startswith(prefix)}
    floats = {name: value.detach().float().cpu().contiguous().clone() for name, value in module.items()}
    return merged(floats, _adapters(metadata) if any(map(is_adapter, floats)) else None)


def _adapters(metadata: Mapping[str, str]) -> LoRAConfig:
    return config.build(LoRAConfig, json.loads(metadata["config"])["model"]["lora"], "model.lora.")


def check_engine(engine: Any, step: int) -> None:
    """See that weights and optimiser hold numbers on all ranks; every rank must call it.

    Raises:
        ArcticSegError: some are NaN or infinite.
    """
    device = next((p.device for p in engine.module.parameters()), torch.device("cpu"))
    check_finite(_tensors_of(engine), "weights or moments of the optimiser", step, device)


def _tensors_of(engine: Any) -> Iterator[Any]:
    """What an engine learns and keeps: weights, buffers, float32 masters, moments; under ZeRO this rank's parts."""
    for value in (*engine.module.parameters(), *engine.module.buffers()):
        yield getattr(value, "ds_tensor", value)
    optimizer = getattr(engine, "optimizer", None)
    # ZeRO and mixed precision wrap the optimiser; that inside steps the masters.
    inner = getattr(optimizer, "optimizer", optimizer)
    if inner is not None:
        for group in inner.param_groups:
            yield from group["params"]
        for master, state in inner.state.items():
            yield from (master, *state.values())


def check_finite(values: Iterable[Any], what: str, step: int, device: torch.device) -> None:
    """See that all floating-point tensors are finite on all ranks; every rank must call it.

    They are looked at where they are; the host waits once.

    Args:
        values: what is not a tensor is left out.
        what: they are, for the message.
        device: of the sum over ranks.

    Raises:
        ArcticSegError: some are NaN or infinite; the same on all ranks.
    """
    bad = torch.zeros((), dtype=torch.float64, device=device)
    for value in values:
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
            # Smallest and largest of a tensor with NaN are NaN; unlike a mask they take no memory.
            bad += torch.stack(value.detach().aminmax()).isfinite().all().logical_not().to(device)
    if sum_over_ranks(bad).item():
        raise ArcticSegError(
            f"{what} are NaN or infinite at step {step}, so they are not saved, and what was saved before stays; check "
            "the data, lower optim.lr or set engine.precision to fp32, and train in another 'out'"
        )
