"""Weights files: float32 weights of a whole network, with the config that they need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from arcticseg.engine.process_group import barrier
from arcticseg.files import atomic_path, make_folder
from arcticseg.models.weights import sealed
from arcticseg.tasks.task import Objective


def save_weights(engine: Any, path: Path, metadata: dict[str, str]) -> None:
    """Write the whole model's weights with the config that they need; every rank must call it."""
    from safetensors.torch import save_file

    weights = full_state_dict(engine)
    if weights is not None:
        make_folder(path.parent)
        with atomic_path(path) as temporary:
            save_file(weights, temporary, metadata=sealed(weights, metadata))
    barrier()


def full_state_dict(engine: Any) -> dict[str, torch.Tensor] | None:
    """The network's weights in float32 on the CPU of rank 0, None on the others; every rank must call it."""
    if engine.zero_optimization_stage() < 3:
        weights = engine.module.state_dict()
    else:
        weights = engine._zero3_consolidated_16bit_state_dict()
    if engine.global_rank != 0:
        return None
    if isinstance(engine.module, Objective):
        prefix = "network."
        weights = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    return {name: value.detach().float().cpu().contiguous() for name, value in weights.items()}
