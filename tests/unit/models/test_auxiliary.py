"""Heads on an inner map of the encoder: there in training, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
from torch import nn

from arcticseg.errors import BadValueError
from arcticseg.models.build import build_segmenter
from arcticseg.models.config.auxiliary import AuxiliaryConfig
from arcticseg.models.segmenter import Segmenter
from tests.networks import small

AUXILIARY = AuxiliaryConfig(channels=8)
OUTPUTS = {"SIC_auxiliary": 10, "SOD_auxiliary": 6, "FLOE_auxiliary": 7}


def built(kind: str, auxiliary: AuxiliaryConfig | None) -> Segmenter:
    torch.manual_seed(0)
    return build_segmenter(replace(small(kind, heads={"SIC": "ordinal"}), auxiliary=auxiliary), 2, 32)


@pytest.mark.parametrize("kind", ["light", "upernet", "unet"])
def test_training_gives_more_outputs_and_evaluation_is_as_without(kind: str) -> None:
    x = torch.randn(2, 2, 24, 30)
    plain, network = built(kind, None), built(kind, AUXILIARY)
    # Nothing else is drawn otherwise.
    own = network.state_dict()
    assert all(torch.equal(own[name], value) for name, value in plain.state_dict().items())
    network.train(), plain.train()
    outputs, expected = network(x), plain(x)
    assert {name: part.shape for name, part in outputs.items() if name not in expected} == {
        name: (2, planes, 24, 30) for name, planes in OUTPUTS.items()
    }
    assert all(torch.equal(outputs[chart], part) for chart, part in expected.items())
    sum(part.square().sum() for part in outputs.values()).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
    network.eval()

    def fail(*_: object) -> None:
        raise AssertionError("an auxiliary head is computed")

    assert network.auxiliary is not None
    network.auxiliary.register_forward_hook(fail)
    assert set(network(x)) == set(plain.eval()(x))


@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_map_is_chosen_by_its_place(place: int) -> None:
    network = built("unet", replace(AUXILIARY, map=place))
    maps = network.encoder(torch.randn(1, 2, 32, 32))
    scores = network.auxiliary(maps)["SOD"]
    assert scores.shape == (1, 6, *maps[place].shape[-2:])
    # Of this map alone: the convolution written out.
    conv, norm, head = network.auxiliary.conv[0], network.auxiliary.conv[1], network.auxiliary.heads["SOD"]
    features = norm(nn.functional.conv2d(maps[place], conv.weight, padding=1)).relu()
    torch.testing.assert_close(scores, nn.functional.conv2d(features, head.weight, head.bias))


def test_a_map_that_there_is_not_is_refused() -> None:
    with pytest.raises(BadValueError, match=r"model\.auxiliary\.map.*is 9.*maps, 0 to"):
        built("unet", replace(AUXILIARY, map=9))


def test_heads_are_those_of_the_charts() -> None:
    network = built("unet", AUXILIARY)
    assert network.auxiliary is not None
    kinds = {chart: type(head) for chart, head in network.auxiliary.heads.items()}
    assert kinds == {chart: type(network.head(chart)) for chart in network.charts}
