"""A program for one rank: the gradient of 64 samples under bf16 in a ZeRO stage, in 1, 8 and 64 parts, against fp32.

accumulated.py OUT STAGE; OUT gets a JSON of relative errors by number of parts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from arcticseg.data.transforms import Inputs
from arcticseg.engine import process_group, reshard
from arcticseg.engine.config import AdamWConfig, EngineConfig
from arcticseg.engine.deepspeed_engine import DTYPES, make_engine
from arcticseg.engine.step import DeepSpeedStep
from arcticseg.models.config import ModelConfig, ViTConfig
from arcticseg.run import build
from arcticseg.run.config import RunConfig

SAMPLES, TILE = 64, 32


def gradient(cfg: EngineConfig, ranks: Any, labels: Tensor, x: Tensor) -> Tensor:
    """The gradient of all samples, flat, float32."""
    encoder = ViTConfig("vit_tiny_patch16_224", patch_size=8, embed_dim=32, depth=4, num_heads=2)
    run = RunConfig(steps=1, model=ModelConfig(encoder=encoder))
    model = build.build_model(run, TILE)
    task = build.build_task(run, model)
    step = DeepSpeedStep(make_engine(model, cfg, AdamWConfig(), ranks), task, DTYPES[cfg.precision], 1, clip=0.0)
    micro = cast(int, cfg.micro_batch_size)
    parts = [slice(first, first + micro) for first in range(0, SAMPLES, micro)]
    items = [inputs(x[part], labels[part]) for part in parts]
    seen: list[Tensor] = []

    def look(sums: Tensor) -> None:
        seen.append(torch.cat([part.detach().float().flatten() for part in reshard.gradients(step.engine)]))
        before_step(sums)

    before_step = step._guard.before_step
    step._guard.before_step = look  # type: ignore[method-assign]
    step(items, cast(Tensor, sum(task.counts(item) for item in items)), 0.0)
    return seen[0]


def inputs(x: Tensor, labels: Tensor) -> Inputs:
    """Inputs without draws."""
    yes = torch.ones_like(x, dtype=torch.bool)
    return Inputs(torch.arange(len(x)), x, yes, ~yes[..., 0, 0], labels)


def main(argv: Sequence[str]) -> int:
    """Entry point."""
    out, stage = Path(argv[0]), int(argv[1])
    ranks = process_group.start()
    torch.manual_seed(0)
    planes = RunConfig(steps=1).data.in_chans
    x = torch.randn(SAMPLES, planes, TILE, TILE)
    labels = torch.randint(0, 6, (SAMPLES, 3, TILE, TILE), dtype=torch.uint8)

    def of(precision: Any, parts: int) -> Tensor:
        size = SAMPLES // parts
        cfg = EngineConfig(stage, precision, global_batch_size=SAMPLES, micro_batch_size=size)
        return gradient(cfg, ranks, labels, x)

    exact = of("fp32", 1)
    errors = {parts: float((of("bf16", parts) - exact).norm() / exact.norm()) for parts in (1, 8, 64)}
    out.write_text(json.dumps(errors))
    process_group.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
