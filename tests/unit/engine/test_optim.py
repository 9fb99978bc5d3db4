"""Learning rates and groups of parameters."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")
from torch import nn

from arcticseg.engine.config import AdamWConfig
from arcticseg.engine.optim import learning_rate, make_optimizer, parameter_groups, rate_scales
from arcticseg.errors import BadValueError
from arcticseg.models.encoders.unet import UNetEncoder
from arcticseg.models.encoders.vit import build_vit
from arcticseg.tasks.task import Objective
from tests.unit.engine.trainings import Halving


def test_learning_rate_warms_up_linearly_and_ends_at_the_floor() -> None:
    cfg = AdamWConfig(lr=1.0, warmup=0.1, final_lr=0.01)
    rates = [learning_rate(step, 100, cfg) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert max(rates) == pytest.approx(1.0)
    assert all(a >= b for a, b in pairwise(rates[9:]))
    assert rates[100] == pytest.approx(0.01)
    # Half way down the cosine lies half way between peak and floor.
    assert rates[55] == pytest.approx(0.505)


def test_restarts_are_those_of_torch() -> None:
    cfg = AdamWConfig(lr=2.0, warmup=0.0, final_lr=0.1, cycles=3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=4, eta_min=0.2)
    for step in range(12):
        assert learning_rate(step, 12, cfg) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert learning_rate(12, 12, cfg) == pytest.approx(0.2)


def test_warm_up_from_a_share_of_the_rate_is_that_of_torch() -> None:
    cfg = AdamWConfig(lr=3.0, warmup=0.5, warmup_from=1 / 3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3.0)
    # Torch's first rate is that before our first step.
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1 / 3, total_iters=10)
    for step in range(10):
        optimizer.step()
        schedule.step()
        assert learning_rate(step, 20, cfg) == pytest.approx(schedule.get_last_lr()[0])


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


class Drawer(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, nn.Linear(8, 8)


def scales_of(model: nn.Module, cfg: AdamWConfig) -> dict[str, float]:
    """Name -> what multiplies the learning rate, of the groups that the optimiser gets."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: group["lr_scale"]
        for group in make_optimizer(model, cfg).param_groups
        for parameter in group["params"]
    }


def beit_layer(name: str, depth: int) -> int:
    """Layer of a parameter as public fine-tuning of BEiT and MAE counts them."""
    if name in ("encoder.cls_token", "encoder.pos_embed") or name.startswith("encoder.patch_embed"):
        return 0
    if name.startswith("encoder.blocks."):
        return int(name.split(".")[2]) + 1
    return depth + 1


@pytest.mark.parametrize("learns", [False, True], ids=["plain", "with_a_task"])
def test_rates_fall_with_depth_as_in_beit_and_mae(learns: bool) -> None:
    depth, decay = 3, 0.65
    encoder = build_vit(2, 32, "vit_tiny_patch16_224", patch_size=16, embed_dim=16, depth=depth, num_heads=2)
    network = Drawer(encoder)
    model = Objective(network, Halving()) if learns else network
    scales = scales_of(model, AdamWConfig(layer_decay=decay, encoder_rate=0.5))
    assert len(scales) == len(list(network.parameters()))
    for name, scale in scales.items():
        plain = name.removeprefix("network.")
        own = 0.5 if plain.startswith("encoder.") else 1.0
        assert scale == pytest.approx(own * decay ** (depth + 1 - beit_layer(plain, depth))), name
    assert scales["network." * learns + "encoder.patch_embed.proj.weight"] == pytest.approx(0.5 * 0.65**4)
    assert scales["network." * learns + "encoder.norm.weight"] == 0.5


def test_rates_of_a_unet_fall_level_by_level() -> None:
    scales = scales_of(Drawer(UNetEncoder(2, 32, (8, 8))), AdamWConfig(layer_decay=0.5))
    by_level = {name.split(".")[2]: scale for name, scale in scales.items() if name.startswith("encoder.")}
    assert by_level == {"0": 0.125, "1": 0.25, "2": 0.5}
    assert scales["decoder.weight"] == 1.0


def test_an_encoder_that_names_no_layers_has_no_layer_decay() -> None:
    with pytest.raises(BadValueError, match=r"'optim.layer_decay' is 0.5; set 1: Linear does not say"):
        rate_scales(Drawer(nn.Linear(2, 2)), AdamWConfig(layer_decay=0.5))
    assert rate_scales(Drawer(nn.Linear(2, 2)), AdamWConfig(encoder_rate=0.1))("encoder.weight") == 0.1


def test_parameters_that_have_taken_other_numbers_of_steps_are_of_other_groups() -> None:
    """Where a rank holds the masters of a group as one tensor, Adam counts its steps once."""
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    groups = parameter_groups(model, 0.05, taken={"1.weight": 40.0})
    assert [[id(p) for p in group["params"]] for group in groups] == [  # type: ignore[attr-defined]
        [id(model[1].weight)],
        [id(model[0].weight), id(model[2].weight)],
    ]
