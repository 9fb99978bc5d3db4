"""What networks cost, beside sums by hand."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from arcticseg import config
from arcticseg.errors import ConfigError
from arcticseg.models.config import DecoderConfig
from arcticseg.run.config import load
from arcticseg.speed.catalogue import decoder_cost, encoder_cost, fastest, recipe_cost, recipes
from arcticseg.speed.network import work_of
from launchers.cli import main

CONVS = [(25, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64), (64, 64), (64, 64), (64, 64), (64, 64)]


def test_the_unet_multiplies_as_often_as_a_sum_by_hand_says() -> None:
    cost = encoder_cost({"name": "unet"}, planes=25, tile=64)
    forward = sum(2 * 9 * a * b * (64 >> place // 2) ** 2 for place, (a, b) in enumerate(CONVS))
    assert cost.forward == forward
    # The image needs no gradient.
    assert cost.training == 3 * forward - 2 * 9 * 25 * 16 * 64**2
    assert cost.parameters == sum(9 * a * b + 2 * b for a, b in CONVS)
    # In bf16 each convolution, norm and ReLU keeps a map at most, each pool one and where its values were.
    maps = sum(b * (64 >> place // 2) ** 2 for place, (_, b) in enumerate(CONVS))
    assert 2 * 2 * maps < cost.memory < 2 * 4 * maps


@pytest.mark.parametrize("name", ["resnet50d", "convnext_atto", "swin_tiny_patch4_window7_224", "mit_b0"])
def test_backward_costs_twice_what_forward_does(name: str) -> None:
    cost = encoder_cost({"name": name}, planes=5, tile=96)
    # Convolutions of each channel and attention, too; the image alone needs no gradient.
    assert 2.8 * cost.forward < cost.training <= 3 * cost.forward


def test_decoders_of_three_charts_cost_three_where_they_stand_apart() -> None:
    light, light3 = (decoder_cost(name, 25, 64)[0] for name in ("light", "light3"))
    assert light3.parameters == 3 * light.parameters
    assert light3.forward == 3 * light.forward
    assert light3.training == 3 * light.training
    assert decoder_cost("unet", 25, 64)[1] == "unet"


@pytest.mark.parametrize("decoder", [name for name in DecoderConfig.table if name != "unet"])
@pytest.mark.parametrize("encoder", ["resnet10t", "swin_tiny_patch4_window7_224", "mit_b0", "unet"])
def test_new_networks_are_counted_as_plan_and_bench_do(encoder: str, decoder: str) -> None:
    cfg = load("scratch_vit", [f"model.encoder={encoder}", f"model.decoder={decoder}", "model.decoder.channels=16"])
    work = work_of(cfg, 64, 2)
    assert 0 < work.forward < work.flops / 2
    assert 0 < work.kept <= work.peak


def test_each_recipe_is_counted_once_for_a_network() -> None:
    names = recipes()
    assert {"pretrain_vit", "finetune_vit", "scratch_unet", "demo_vit"} <= set(names)
    assert not {"base", "demo_base", "study"} & set(names)
    assert {f"{name}.yaml" for name in names} < set(config.shipped())
    cost = recipe_cost("scratch_vit", 96)
    assert recipe_cost("finetune_vit", 96) is cost
    assert cost.training == work_of(load("scratch_vit"), 96, 2).flops_a_sample


def test_measured_speeds_are_of_the_recipe_as_it_is() -> None:
    assert fastest("scratch_unet").startswith("1463 (bare loop, NVIDIA H200, batch 128")
    assert fastest("pretrain_vit_stock").startswith("1606 (bare loop, NVIDIA H200, batch 256")
    assert fastest("pretrain_vit").startswith("2178 (bare loop, NVIDIA H200, batch 128")
    assert fastest("demo_vit") == ""


def test_the_command_tells_of_each_name(capsys: pytest.CaptureFixture[str]) -> None:
    main(["models", "--tile", "64", "unet", "resnet10t", "scratch_unet"])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["parameters", "forward", "training"]
    # An encoder and a decoder of one name.
    assert [line.split()[0] for line in lines] == ["unet", "unet", "resnet10t", "scratch_unet"]
    weights = sum(9 * a * b + 2 * b for a, b in CONVS)
    assert lines[0].split()[1:3] == [f"{weights / 1e6:.2f}", "M"]


def test_names_and_sizes_that_cannot_be_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "no_such_network"]) == 2
    assert "config 'no_such_network'" in capsys.readouterr().err
    assert main(["models", "--tile", "0"]) == 2
    assert "--tile is 0; set a whole number from 1 to" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="hybrid"):
        encoder_cost({"name": "vit_base_r50_s16_224"}, 25, 64)
