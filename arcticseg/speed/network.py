"""The work of a config's network, from its forward and backward on the meta device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from arcticseg.data.inputs import Inputs
from arcticseg.engine.deepspeed_engine import DTYPES
from arcticseg.ice.sigrid import CHARTS
from arcticseg.models.frozen import let_learn
from arcticseg.run import build
from arcticseg.run.config import RunConfig
from arcticseg.speed.arithmetic import Work, count
from arcticseg.tasks.task import Task


def work_of(cfg: RunConfig, tile: int, micro: int) -> Work:
    """What a micro batch of tiles of so many pixels costs: forward, loss and backward; in the last stage, if any."""
    dtype = DTYPES[cfg.engine.precision]
    with torch.device("meta"):
        network = build.build_model(cfg, tile)
        let_learn(network, cfg.model, cfg.seed, cfg.stages[-1].frozen if cfg.stages else cfg.model.frozen)
        network = network.to(dtype)
    task = build.build_task(cfg, network)
    inputs = _inputs(cfg, task, tile, micro, dtype)

    def forward(x: Tensor, *rest: Any) -> Any:
        return network(x.to(dtype), *rest)

    tensors = (inputs.x, inputs.data, inputs.labels, inputs.target)
    held = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    return count(network, lambda: task.sums(forward, inputs).sum(), micro, held)


def _inputs(cfg: RunConfig, task: Task, tile: int, micro: int, dtype: torch.dtype) -> Inputs:
    """Inputs as `Assemble` makes them for the task."""
    want, meta = task.want(dtype), torch.device("meta")
    planes = (micro, cfg.data.in_chans, tile, tile)
    wanted = planes if want.targets is None else (micro, len(want.targets), tile, tile)
    drawn = task.draw(range(micro), tile)
    return Inputs(
        place=torch.arange(micro),
        x=torch.empty(planes, dtype=want.dtype, device=meta),
        data=torch.empty(wanted, dtype=torch.bool, device=meta),
        dropped=torch.empty(planes[:2], dtype=torch.bool, device=meta),
        labels=torch.empty(micro, len(CHARTS), tile, tile, dtype=torch.uint8, device=meta),
        targets=want.targets,
        target=torch.empty(wanted, device=meta) if want.targets else None,
        drawn=None if drawn is None else drawn.to(meta),
        seeds=torch.zeros(micro, dtype=torch.int64, device=meta),
    )
