"""What rows say, waits by whose code asks, and the bare loop's optimiser."""

from __future__ import annotations

import math
from traceback import FrameSummary, StackSummary
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn

from arcticseg.engine.config import AdamWConfig
from arcticseg.run.config import load
from arcticseg.speed import clock, standin
from arcticseg.speed.bare import Masters
from arcticseg.speed.bench import verdict
from arcticseg.speed.clock import Phases

FAST = {"samples_per_s": 100.0, "data_wait": 0.0, "mfu": 0.5}


def rows(**changes: Any) -> dict[str, dict[str, Any]]:
    measured = {"loader": {"samples_per_s": 1000.0}, "bare loop": {"samples_per_s": 101.0}, "trainer": dict(FAST)}
    for name, row in changes.items():
        measured[name.replace("_", " ")] = measured.get(name.replace("_", " "), {}) | row
    return measured


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        (rows(), "bound by the network"),
        (rows(trainer={"data_wait": 0.1}), "bound by data"),
        (rows(loader={"samples_per_s": 90.0}), "bound by data"),
        (rows(bare_loop={"samples_per_s": 150.0}), "bound by the host"),
        (rows() | {"2 ranks": {"communication": 0.4}}, "bound by communication"),
    ],
)
def test_the_verdict_names_what_bounds_and_a_key_to_try(measured: dict[str, dict[str, Any]], said: str) -> None:
    text = verdict(measured)
    assert text.startswith(said)
    assert any(key in text for key in ("data.workers", "engine.micro_batch_size", "engine.global_batch_size"))


def stack(*files: str) -> StackSummary:
    return StackSummary.from_list([FrameSummary(name, 7, "f") for name in files])


def test_a_wait_is_whose_code_asks_for_it() -> None:
    ours = clock._OURS
    assert clock._place(stack(f"{ours}/engine/trainer.py", "/x/torch/_tensor.py")) == "arcticseg/engine/trainer.py:7"
    theirs = stack(f"{ours}/engine/step.py", "/x/deepspeed/runtime/engine.py", "/x/torch/autograd.py")
    assert clock._place(theirs) == "deepspeed/runtime/engine.py:7"
    assert clock._place(stack("/x/torch/autograd.py")) == "elsewhere"


def test_phases_follow_each_other() -> None:
    assert Phases(warmup=3, timed=10, watched=4, profiled=2).total == 20


@pytest.mark.parametrize("clip", [0.0, 0.1])
def test_masters_step_as_adamw_on_the_weights_themselves(clip: float) -> None:
    optim = AdamWConfig(lr=1e-2, weight_decay=0.1, clip=clip)
    torch.manual_seed(0)
    ours, theirs = (nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    masters = Masters(ours, optim)
    groups = [{"params": [theirs[0].weight], "weight_decay": 0.1}]
    groups += [{"params": [theirs[0].bias, *theirs[1].parameters()], "weight_decay": 0.0}]
    plain = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95))
    for _ in range(5):
        x = torch.randn(6, 4)
        for network in (ours, theirs):
            network(x).square().sum().backward()
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), clip or math.inf)
        assert norm > clip
        masters.step(), plain.step(), plain.zero_grad()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["pretrain_vit", "scratch_vit", "scratch_unet"])
def test_a_stand_in_is_a_config(name: str) -> None:
    cfg = load(name)
    small = load(name, standin.on_cpu(cfg, ranks=2))
    assert (small.engine.global_batch_size, small.engine.micro_batch_size) == (16, 4)
    assert small.model.encoder.name == cfg.model.encoder.name
    assert small.epochs is None
    one = load(name, standin.on_gpu(cfg, micro=64, workers=14))
    assert (one.engine.global_batch_size, one.engine.micro_batch_size, one.data.workers) == (64, 64, 14)
