"""A program for ranks: train a small network a few steps in a ZeRO stage, from a checkpoint or not, and save one.

engines.py OUT KEY=VALUE...; what it saw goes to OUT/RANK.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from arcticseg.engine import checkpoint, process_group, reshard
from arcticseg.engine.checkpoint import Checkpoint, Position
from arcticseg.engine.config import EngineConfig, OptimConfig
from arcticseg.engine.deepspeed_engine import DTYPES, make_engine
from arcticseg.engine.process_group import Ranks
from arcticseg.engine.skip import Guard

BATCH = 8
DEFAULTS: dict[str, Any] = {
    "stage": 1,
    "precision": "fp32",
    "offload": 0,
    "optim": "adamw",
    "first": 0,
    "last": 3,
    "bad": -1,  # a step with NaN in a sample of rank 0
    "parts": 1,
    "from": "",
}


class Net(nn.Module):
    """Weights of odd sizes, one frozen, one buffer kept and one not."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.a, self.norm, self.b = nn.Linear(7, 33), nn.LayerNorm(33), nn.Linear(33, 5)
        self.a.bias.requires_grad_(False)
        self.kept: Tensor
        self.passing: Tensor
        self.register_buffer("kept", torch.arange(3.0))
        self.register_buffer("passing", torch.ones(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(torch.nn.functional.gelu(self.norm(self.a(x)))) * self.passing.sum()
        return out


class Several:
    """Optimisers that step one after the other, each on a network of its own."""

    def __init__(self, engines: dict[str, Any], clip: float, dtype: torch.dtype, ranks: Ranks) -> None:
        self._engines, self.dtype, self.ranks = engines, dtype, ranks
        self.guards = {part: Guard(engine, clip) for part, engine in engines.items()}

    def train_on(self, step: int, bad: bool) -> list[float]:
        """Losses of the parts on this rank's share of a batch that depends on the step alone."""
        x = torch.randn(BATCH, 7, generator=torch.Generator().manual_seed(step))
        if bad:
            x[0, 3] = float("nan")
        losses = []
        for part, engine in self._engines.items():
            micro = engine.train_micro_batch_size_per_gpu()
            share = x.view(self.ranks.world_size, -1, micro, 7)[self.ranks.rank]
            total = torch.zeros(())
            for item in share:
                loss = engine(item.to(self.dtype)).float().square().mean()
                engine.backward(loss)
                total = total + loss.detach()
                if engine.is_gradient_accumulation_boundary():
                    self.guards[part].before_step(total[None])
                engine.step()
            losses.append(float(total) / len(share))
        return losses

    @property
    def engines(self) -> dict[str, Any]:
        return self._engines

    @property
    def norm(self) -> Tensor:
        norm = self.guards[""].norm
        assert norm is not None
        return norm

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def read_skipped(self) -> list[bool]:
        return self.guards[""].read()


def _count_waits(told: dict[str, Any]) -> None:
    """Count how often DeepSpeed waits for the device; on a CPU there is nothing to wait for."""
    from deepspeed.accelerator import get_accelerator

    def wait(*_: Any) -> None:
        told["waits"] += 1

    get_accelerator().synchronize = wait


def main(argv: Sequence[str]) -> int:
    """Entry point of one rank."""
    out = Path(argv[0])
    keys = DEFAULTS | dict(text.split("=", 1) for text in argv[1:])
    keys = {name: type(DEFAULTS[name])(value) for name, value in keys.items()}
    ranks = process_group.start()
    if keys["precision"] == "fp16":
        # DeepSpeed refuses it on a CPU, which is slow at it, but can do it.
        from deepspeed.accelerator import get_accelerator

        get_accelerator().is_fp16_supported = lambda: True
    micro = BATCH // ranks.world_size // 2
    cfg = EngineConfig(
        keys["stage"], keys["precision"], offload=bool(keys["offload"]), global_batch_size=BATCH, micro_batch_size=micro
    )
    optim = OptimConfig.table[keys["optim"]](keys["optim"], lr=0.01, clip=0.5)
    saved = Checkpoint.open(Path(keys["from"])) if keys["from"] else None
    engines, initial = {}, {}
    for number, part in enumerate(("", "second")[: keys["parts"]]):
        net = Net(number)
        if saved is not None:
            saved.load_module(net, part)
        initial[part] = {name: value.detach().clone() for name, value in net.named_parameters()}
        engines[part] = make_engine(net, cfg, optim, ranks)
    step: Any = Several(engines, optim.clip, DTYPES[cfg.precision], ranks)
    if saved is not None:
        saved.load_step(step)
    exact = all(
        torch.equal(piece.of(piece.holder).float(), initial[part][piece.name].reshape(-1)[piece.start : piece.stop])
        for part, engine in engines.items()
        for piece in reshard.pieces(engine)
    )
    told: dict[str, Any] = {"exact": exact, "losses": [], "norms": [], "waits": 0}
    _count_waits(told)
    for number in range(keys["first"], keys["last"]):
        told["losses"].append(step.train_on(number, number == keys["bad"] and ranks.rank == 0))
        told["norms"].append(float(step.norm))
    told["skipped"] = step.read_skipped()
    told["scale"] = reshard.loss_scale(engines[""])
    saver = checkpoint.make_saver(out, ranks)
    checkpoint.save(saver, step, out, Position(keys["last"]), [], {"config": "{}"})
    error = saver.settle()
    assert error is None, error
    (out / f"{ranks.rank}.json").write_text(json.dumps(told))
    process_group.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
