"""Plans beside what was measured, and beside sums by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("torch")

from arcticseg import config
from arcticseg.errors import ConfigError
from arcticseg.run.config import load
from arcticseg.speed.machines import GPUS, measured
from arcticseg.speed.network import work_of
from arcticseg.speed.plan import (
    Cluster,
    Data,
    checkpoint_bytes,
    loader_rate,
    loop_bytes,
    make_plan,
    memory_needed,
    network_seconds,
    sized,
)
from launchers.cli import main, make_parser

SHIPPED = [name for name in config.shipped() if "base" not in name and "finetune" not in config.read(name)]
CLUSTER = Cluster(GPUS["h200"], nodes=2, gpus=8, network=50e9)


@pytest.mark.parametrize("row", measured(), ids=lambda row: f"{row['config']} {row['batch']} {row['overrides']}")
def test_memory_within_15_and_time_within_30_percent_of_what_was_measured(row: dict[str, Any]) -> None:
    cfg = load(row["config"], [*row["overrides"], "model.init_from=null"])
    work, gpu = work_of(cfg, 384, row["batch"]), GPUS[row["gpu"]]
    if "memory_gb" in row:
        memory = loop_bytes(work, row["optimiser_bytes"], 1e9 * row["held_gb"])
        assert memory == pytest.approx(1e9 * row["memory_gb"], rel=0.15)
    seconds = network_seconds(work, gpu, row["compiled"])
    assert seconds == pytest.approx(row["batch"] / row["samples_per_s"], rel=0.30)


def test_states_of_the_stages() -> None:
    """Bytes a parameter of bf16 on 16 ranks: weights 2, gradients 4, masters and moments 12."""
    cfg = load("pretrain_vit")
    work = work_of(cfg, 384, 1)
    base = memory_needed(work, cfg.engine, 1, 16)
    by_stage = {stage: (base - memory_needed(work, cfg.engine, stage, 16)) / 1.05 / work.trained for stage in (2, 3)}
    assert by_stage[2] == pytest.approx(4 - 4 / 16, rel=1e-3)
    assert by_stage[3] == pytest.approx(4 - 4 / 16 + 2 - 2 / 16, rel=1e-3)


def test_a_batch_that_does_not_divide_is_raised_to_one_that_does() -> None:
    engine = sized(load("scratch_vit"), Cluster(GPUS["h100"], 16, 8, 50e9))
    assert (engine.global_batch_size, engine.micro_batch_size) == (128, 1)
    engine = sized(load("scratch_vit", ["data.augment.cutmix=0.5"]), Cluster(GPUS["h100"], 16, 8, 50e9))
    assert (engine.global_batch_size, engine.micro_batch_size) == (256, 2)


def test_a_run_is_its_steps() -> None:
    cfg = load("pretrain_vit", ["epochs=2"])
    work = work_of(cfg, 384, 32)
    plan = make_plan(cfg, work, CLUSTER, Data(10_000, 300e3))
    assert plan.steps == 20_000 // 512
    assert plan.seconds == pytest.approx(plan.steps * (plan.network + plan.optimiser + plan.talk))
    assert plan.read == pytest.approx(plan.rate * 300e3)
    assert plan.checkpoint == checkpoint_bytes(work) == pytest.approx(12 * work.trained, rel=0.01)
    assert plan.largest[3] >= plan.largest[1] > plan.micro == 32


def test_what_is_frozen_needs_no_optimiser_and_no_activations() -> None:
    """ViT-B has 86 million parameters and some; adapters of rank 4 beside its 48 maps have r (in + out) each."""
    whole, frozen, adapted, second = (
        work_of(load("scratch_vit", overrides), 384, 1)
        for overrides in (
            [],
            ["model.frozen=encoder"],
            ["model.lora={rank: 4}"],
            ["stages=[{share: 0.5, frozen: encoder}, {}]"],
        )
    )
    adapters = 12 * 4 * ((768 + 2304) + (768 + 768) + 2 * (768 + 3072))
    assert adapted.trained - frozen.trained == adapted.parameters - whole.parameters == adapters
    assert whole.trained - frozen.trained > 85e6
    assert whole.parameters == frozen.parameters == whole.trained == second.trained
    assert frozen.peak < whole.peak / 2
    engine = load("scratch_vit").engine
    saved = memory_needed(whole, engine, 1, 1) - memory_needed(frozen, engine, 1, 1)
    assert saved > 16 * 85e6


def test_a_gpu_too_small_fits_nothing() -> None:
    cfg = load("pretrain_vit")
    small = replace(CLUSTER, gpu=replace(CLUSTER.gpu, memory=1e9))
    assert set(make_plan(cfg, work_of(cfg, 384, 1), small, Data(1000, 1.0)).largest.values()) == {0}


def test_more_workers_feed_more() -> None:
    rates = [loader_rate(workers) for workers in (1, 2, 4, 8, 14, 20)]
    assert rates == sorted(rates)
    assert rates[2:5] == [6500, 10100, 13600]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_config_can_be_planned(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["model.init_from=null"]
    assert main(["plan", name, *overrides, "--gpu", "h200", "--nodes", "16"]) == 0
    printed = capsys.readouterr().out
    for what in ("ZeRO 1", "largest micro batch", "samples/s", "MB/s from shards", "checkpoint", "run  "):
        assert what in printed


def test_an_unknown_gpu_is_refused() -> None:
    arguments = make_parser().parse_args(["plan", "pretrain_vit", "--gpu", "tpu"])
    with pytest.raises(ConfigError, match="--gpu is 'tpu'"):
        arguments.main(arguments)
