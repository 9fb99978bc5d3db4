"""A program for ranks: loss and gradient of two steps of every case of `tests.loss_cases`, whole and accumulated.

equal.py OUT; rank 0 writes OUT: arrays by name of the case, its parts (1: a rank's samples at once), what they are.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from arcticseg.engine import process_group, reshard
from arcticseg.engine.config import EngineConfig, SGDConfig
from arcticseg.engine.deepspeed_engine import make_engine
from arcticseg.engine.hooks.balance import Balance
from arcticseg.engine.process_group import Ranks, sum_over_ranks
from arcticseg.engine.step import DeepSpeedStep
from arcticseg.tasks.task import Objective, dividing
from tests.loss_cases import CASES, SAMPLES, WHOLE, batch, made, part

STEPS, RATE = 2, 0.05


def told_by(case: Sequence[str], micro: int, ranks: Ranks) -> dict[str, Any]:
    """Of each step the loss, the means of its terms and the gradient of all weights; also the charts' weights."""
    cfg, model, task = made(case)
    engine_cfg = EngineConfig(0, "fp32", global_batch_size=SAMPLES, micro_batch_size=micro)
    engine = make_engine(Objective(model, task) if task.learns else model, engine_cfg, SGDConfig(lr=RATE), ranks)
    step = DeepSpeedStep(engine, task, torch.float32, ranks.world_size, clip=0.0)
    gradients: list[Tensor] = []
    before_step = step._guard.before_step

    def look(sums: Tensor) -> None:
        gradients.append(torch.cat([part.detach().flatten().clone() for part in reshard.gradients(engine)]))
        before_step(sums)

    step._guard.before_step = look  # type: ignore[method-assign]
    hook = Balance() if task.gradients is not None else None
    if hook is not None:
        hook.on_start(cast(Any, SimpleNamespace(task=task, engine=engine, ranks=ranks)))
    step.train()
    share = SAMPLES // ranks.world_size
    first = ranks.rank * share
    told: dict[str, Any] = {"losses": [], "means": []}
    for number in range(STEPS):
        whole = batch(cfg, number)
        items = [part(whole, slice(start, start + micro)) for start in range(first, first + share, micro)]
        counted = sum_over_ranks(cast(Tensor, sum(task.counts(item) for item in items)))
        means = sum_over_ranks(step(items, counted, RATE).double()) / dividing(counted)
        told["losses"].append(float(task.weighted(means.unbind(), counted)))
        told["means"].append(means.tolist())
        if hook is not None:
            hook.on_step(number + 1, None)
            told[f"weights {number}"] = [float(weight) for weight in task.told().values()]
    return told | {"gradients": torch.stack(gradients).numpy()}


def main(argv: Sequence[str]) -> int:
    """Entry point of a rank."""
    ranks = process_group.start()
    torch.set_num_threads(1)
    share = SAMPLES // ranks.world_size
    arrays: dict[str, Any] = {}
    for name, case in (CASES | WHOLE).items():
        for parts in (1,) if name in WHOLE else (1, 2):
            told = told_by(case, share // parts, ranks)
            arrays |= {f"{name}/{parts}/{what}": np.array(value) for what, value in told.items()}
    if ranks.is_main:
        np.savez(Path(argv[0]), **arrays)
    process_group.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
