"""The work of a config's network, from its forward and backward on the meta device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from arcticseg.data.transforms import Inputs
from arcticseg.engine.deepspeed_engine import DTYPES
from arcticseg.ice.sigrid import CHARTS
from arcticseg.run import build
from arcticseg.run.config import RunConfig
from arcticseg.speed.arithmetic import Work, count


def work_of(cfg: RunConfig, tile: int, micro: int) -> Work:
    """What a micro batch of tiles of so many pixels costs."""
    dtype = DTYPES[cfg.engine.precision]
    with torch.device("meta"):
        network = build.build_model(cfg, tile).to(dtype)
    task = build.build_task(cfg, network)
    inputs = _inputs(cfg, tile, micro)

    def forward(x: Tensor, *rest: Any) -> Any:
        return network(x.to(dtype), *rest)

    return count(network, lambda: task.sums(forward, inputs).sum(), micro)


def _inputs(cfg: RunConfig, tile: int, micro: int) -> Inputs:
    planes, meta = (micro, cfg.data.in_chans, tile, tile), torch.device("meta")
    return Inputs(
        place=torch.arange(micro),
        x=torch.empty(planes, device=meta),
        data=torch.empty(planes, dtype=torch.bool, device=meta),
        dropped=torch.empty(planes[:2], dtype=torch.bool, device=meta),
        labels=torch.empty(micro, len(CHARTS), tile, tile, dtype=torch.uint8, device=meta),
    )


def bytes_of_inputs(cfg: RunConfig, tile: int, micro: int) -> int:
    """Bytes of the inputs of a micro batch."""
    inputs = _inputs(cfg, tile, micro)
    return sum(tensor.nbytes for tensor in (inputs.x, inputs.data, inputs.labels))
