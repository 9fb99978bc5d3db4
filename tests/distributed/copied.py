"""A program for ranks: have a network compute with copies of its weights for a while, in a ZeRO stage.

copied.py OUT STAGE PRECISION; what it saw goes to OUT/RANK.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import Tensor

from arcticseg.engine import process_group
from arcticseg.engine.config import AdamWConfig, EngineConfig
from arcticseg.engine.copies import computing_with, cut, masters, put_together
from arcticseg.engine.deepspeed_engine import DTYPES, make_engine
from tests.distributed.engines import BATCH, Net


def weights(engine: Any) -> dict[str, Tensor]:
    """What the network computes with, whole."""
    kept = {}
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=engine.zero_optimization_stage() == 3):
            kept[name] = parameter.detach().float().clone()
    return kept


def main(argv: Sequence[str]) -> int:
    """Entry point of one rank."""
    out, stage, precision = Path(argv[0]), int(argv[1]), argv[2]
    ranks = process_group.start()
    cfg = EngineConfig(stage, precision, global_batch_size=BATCH)  # type: ignore[arg-type]
    engine = make_engine(Net(0), cfg, AdamWConfig(lr=0.01), ranks)
    dtype = DTYPES[precision]
    x = torch.randn(BATCH, 7, generator=torch.Generator().manual_seed(0))
    share = x.view(ranks.world_size, -1, 7)[ranks.rank].to(dtype)
    engine.backward(engine(share).float().square().mean())
    engine.step()
    before, output = weights(engine), engine(share).detach()
    halves = {name: value / 2 for name, value in masters(engine).items()}
    whole = put_together(engine, halves, ranks)
    again = cut(engine, whole) if ranks.world_size == 1 else halves
    expected = {name: value / 2 for name, value in put_together(engine, masters(engine), ranks).items()}
    with computing_with(engine, halves, ranks):
        within, other = weights(engine), engine(share).detach()
    after = weights(engine)
    told = {
        "whole": sorted(whole),
        "exact": all(torch.equal(whole[name], value) for name, value in expected.items()),
        "cut": all(torch.equal(again[name], value) for name, value in halves.items()),
        "given": all(torch.equal(within[name], value.to(dtype).float()) for name, value in expected.items()),
        "halved": all(torch.allclose(within[name], before[name] / 2, rtol=0.02, atol=1e-6) for name in expected),
        "frozen": torch.equal(within["a.bias"], before["a.bias"]),
        "moved": float((other - output).float().abs().max()),
        "back": all(torch.equal(after[name], value) for name, value in before.items()),
        "same": torch.equal(engine(share).detach(), output),
    }
    (out / f"{ranks.rank}.json").write_text(json.dumps(told))
    process_group.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
