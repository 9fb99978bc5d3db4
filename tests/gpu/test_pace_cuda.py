"""Times of steps on a CUDA device; skipped where there is none."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from arcticseg.engine.pace import Pace
from arcticseg.engine.process_group import Ranks

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def test_steps_are_timed_on_the_device_without_a_wait() -> None:
    device = torch.device("cuda", 0)
    ranks = Ranks(rank=0, local_rank=0, world_size=1, local_world_size=1, device=device)
    torch.cuda._sleep(1)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        pace = Pace(SimpleNamespace(waited=0.0), ranks, 4)  # type: ignore[arg-type]
        for cycles in (10_000_000, 10_000_000, 100_000_000):
            torch.cuda._sleep(cycles)
            pace.stepped()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    told = pace.values()
    middle, high = (told[f"speed/step_ms_{name}/rank_0"] for name in ("p50", "p99"))
    # The device takes ten times as long for ten times as many cycles.
    assert high / middle == pytest.approx(10, rel=0.3)
    assert told["memory/device_gb/rank_0"] >= 0
