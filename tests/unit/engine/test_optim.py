"""Learning rates and groups of parameters."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")
from torch import nn

from arcticseg.engine.config import AdamWConfig
from arcticseg.engine.optim import learning_rate, make_optimizer, parameter_groups


def test_learning_rate_warms_up_linearly_and_ends_at_the_floor() -> None:
    cfg = AdamWConfig(lr=1.0, warmup=0.1, final_lr=0.01)
    rates = [learning_rate(step, 100, cfg) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert max(rates) == pytest.approx(1.0)
    assert all(a >= b for a, b in pairwise(rates[9:]))
    assert rates[100] == pytest.approx(0.01)
    # Half way down the cosine lies half way between peak and floor.
    assert rates[55] == pytest.approx(0.505)


def test_learning_rate_without_warmup() -> None:
    cfg = AdamWConfig(lr=2.0, warmup=0.0, final_lr=0.0)
    assert learning_rate(0, 4, cfg) == 2.0
    assert learning_rate(1, 4, cfg) == pytest.approx(1 + math.cos(math.pi / 4))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.LayerNorm(2)
        self.pos_embed = nn.Parameter(torch.zeros(1, 4, 2))
        self.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)


def test_only_matrices_decay_and_nothing_is_lost() -> None:
    net = Net()
    groups = parameter_groups(net, 0.05)
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}  # type: ignore[attr-defined]
    assert decays[id(net.linear.weight)] == 0.05
    for parameter in (net.linear.bias, net.norm.weight, net.norm.bias, net.pos_embed):
        assert decays[id(parameter)] == 0.0
    assert len(decays) == 5
    assert {group["lr_scale"] for group in groups} == {1.0}


def test_a_group_without_parameters_is_left_out() -> None:
    (group,) = parameter_groups(nn.LayerNorm(8), 0.05)
    assert group["weight_decay"] == 0.0


def test_optimizer_follows_the_config() -> None:
    optimizer = make_optimizer(Net(), AdamWConfig(lr=3e-4, weight_decay=0.1, betas=(0.8, 0.9)))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.1, 0.0}


def test_under_bf16_each_weight_begins_at_a_multiple_of_16_bytes() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(8, 4), nn.Conv2d(2, 4, 2))
    groups = parameter_groups(model, 0.05)
    for group in groups:
        parameters = group["params"]
        assert isinstance(parameters, list)
        assert all(parameter.numel() % 8 == 0 for parameter in parameters) or len(parameters) == 1
    shapes = [[tuple(p.shape) for p in group["params"]] for group in groups]  # type: ignore[attr-defined]
    assert shapes == [[(4, 8), (4, 2, 2, 2)], [(5, 3)], [(5,)], [(4,)], [(4,)]]
    assert [group["weight_decay"] for group in groups] == [0.05, 0.05, 0.0, 0.0, 0.0]
