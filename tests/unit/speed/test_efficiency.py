"""The share of its device's speed that a training reaches."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from arcticseg import config
from arcticseg.engine.process_group import Ranks
from arcticseg.run.config import RunConfig
from arcticseg.speed import efficiency
from arcticseg.speed.efficiency import Efficiency

UNET = {"encoder": {"name": "unet", "filters": [4]}}
CONFIG = {"steps": 1, "model": UNET, "engine": {"precision": "fp32"}}


def training(rank: int) -> SimpleNamespace:
    ranks = Ranks(rank=rank, local_rank=rank, world_size=2, local_world_size=2, device=torch.device("cpu"))
    return SimpleNamespace(ranks=ranks, metadata={"tile": "32"})


def test_it_is_the_rate_times_the_operations_over_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    work = SimpleNamespace(flops_a_sample=3e9)
    monkeypatch.setattr(efficiency, "work_of", lambda cfg, tile, micro: work if (tile, micro) == (32, 1) else None)
    monkeypatch.setattr(efficiency, "product_tflops", lambda *_: 0.06)
    hook = Efficiency(config.build(RunConfig, CONFIG))
    hook.on_start(training(0))  # type: ignore[arg-type]
    # 20 samples a second on two ranks are 10 a rank, 3e10 operations, half of 6e10.
    assert hook.logged({"samples_per_s": 20.0}) == {"speed/tflops_a_gpu": 0.03, "speed/mfu": 0.5}
    other = Efficiency(config.build(RunConfig, CONFIG))
    other.on_start(training(1))  # type: ignore[arg-type]
    assert other.logged({"samples_per_s": 20.0}) == {}


def test_a_real_network_is_counted_and_what_a_training_draws_stays() -> None:
    hook = Efficiency(config.build(RunConfig, CONFIG))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    hook.on_start(training(0))  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), before)
    told = hook.logged({"samples_per_s": 2.0})
    assert 0 < told["speed/mfu"] < 1


def test_what_cannot_be_counted_is_told_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise NotImplementedError("no kernel\non meta")

    monkeypatch.setattr(efficiency, "work_of", fail)
    hook = Efficiency(config.build(RunConfig, CONFIG))
    with pytest.warns(UserWarning, match="no MFU is told: NotImplementedError: no kernel on meta"):
        hook.on_start(training(0))  # type: ignore[arg-type]
    assert hook.logged({"samples_per_s": 2.0}) == {}
