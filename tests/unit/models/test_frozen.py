"""Which weights of a network learn."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from torch import nn

from arcticseg.errors import BadValueError
from arcticseg.models.build import build_segmenter
from arcticseg.models.frozen import freeze, let_learn
from tests.networks import small


def frozen_of(network: nn.Module) -> set[str]:
    return {name for name, parameter in network.named_parameters() if not parameter.requires_grad}


def all_of(network: nn.Module, *starts: str) -> set[str]:
    return {name for name, _ in network.named_parameters() if name.startswith(tuple(f"encoder.{s}" for s in starts))}


EARLY = ("cls_token", "pos_embed", "patch_embed.")


@pytest.mark.parametrize(
    ("frozen", "starts"),
    [
        ("none", ()),
        ("encoder", ("",)),
        (1, (*EARLY, "blocks.0.")),
        (3, (*EARLY, "blocks.0.", "blocks.1.", "blocks.2.")),
        (4, (*EARLY, "blocks.")),
    ],
)
def test_first_blocks_of_a_vit_are_frozen_with_patches_and_positions(
    frozen: str | int, starts: tuple[str, ...]
) -> None:
    network = build_segmenter(small("light"), 3, 32)
    freeze(network, frozen)
    assert frozen_of(network) == (all_of(network, *starts) if starts else set())
    assert bool(starts) == bool(frozen_of(network))


def test_first_levels_of_a_unet_are_frozen() -> None:
    network = build_segmenter(small("unet"), 3, 32)
    freeze(network, 2)
    assert frozen_of(network) == all_of(network, "levels.0.", "levels.1.")


def test_adapters_of_frozen_blocks_do_not_learn() -> None:
    network = build_segmenter(small("light"), 3, 32)
    let_learn(network, small("light", lora={"rank": 2}), 0, 2)
    learning = {name.split(".")[2] for name in all_of(network, "") - frozen_of(network)}
    assert learning == {"2", "3"}
    let_learn(network, small("light", lora={"rank": 2}), 0, "encoder")
    assert frozen_of(network) == all_of(network, "")


def test_what_only_frozen_weights_compute_keeps_nothing_for_backward() -> None:
    network = build_segmenter(small("light"), 3, 32)
    freeze(network, "encoder")
    assert not any(x.requires_grad for x in network.encoder(torch.randn(1, 3, 32, 32)))
    network = build_segmenter(small("light"), 3, 32)
    freeze(network, 2)
    assert [x.requires_grad for x in network.encoder(torch.randn(1, 3, 32, 32))] == [True] * 4
    tokens = network.encoder.patch_embed(torch.randn(1, 3, 32, 32)).flatten(1, 2)
    assert not network.encoder.blocks[1](network.encoder.blocks[0](tokens)).requires_grad


def test_more_blocks_than_there_are_are_refused() -> None:
    with pytest.raises(BadValueError, match=r"'model.frozen' is 5; set at most 4, .* or encoder"):
        freeze(build_segmenter(small("light"), 3, 32), 5)
    network = build_segmenter(small("light"), 3, 32)
    network.encoder = nn.Conv2d(3, 4, 1)
    with pytest.raises(BadValueError, match=r"'model.frozen' is 1; set none or encoder: Conv2d does not say"):
        freeze(network, 1)
