"""Plan 10^8 samples over 1,024 ranks: what it costs to know which sample stands at which place.

    python benchmarks/order.py

The last line is a summary; the status is 1 where a limit does not hold.
"""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections.abc import Callable

import numpy as np

from arcticseg.data.order import Order, Stream
from arcticseg.data.share import Share

SAMPLES, RANKS, SHARE = 100_000_000, 1024, 16
GLOBAL = RANKS * SHARE
SHARDS, WINDOW = 100_000, 16
# The limits.
SECONDS, GIGABYTES, MICROSECONDS, SCENES_OFF = 10.0, 1.0, 100.0, 0.05


def memory() -> float:
    """Peak memory of this process in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def make_orders() -> dict[str, Callable[[], Order]]:
    """The orders by name: one permutation; by blocks of shards; nine resolutions, each equally likely."""
    starts = np.linspace(0, SAMPLES, SHARDS + 1).astype(np.int64)
    factors = np.random.default_rng(0).integers(0, 9, SAMPLES, np.uint8)

    def streams() -> tuple[Stream, ...]:
        return tuple(Stream(np.flatnonzero(factors == factor).astype(np.int32)) for factor in range(9))

    return {
        "one permutation": lambda: Order("f", (Stream(range(SAMPLES)),), 1),
        f"windows of {WINDOW} of {SHARDS} shards": lambda: Order("f", (Stream(range(SAMPLES), starts, WINDOW),), 1),
        "nine streams of equal weight": lambda: Order("f", streams(), 1, (1.0,) * 9, 1008),
    }


def position_cost(order: Order) -> tuple[float, float, float]:
    """Microseconds a sample of a rank: going on, from anywhere, both 16 steps at once, and of a place asked alone."""
    share = Share(517, RANKS, GLOBAL, SHARE)

    def steps(first: int) -> list[int]:
        return [place for step in range(first, first + 16) for place in share.places(step * GLOBAL)]

    def cost(asked: list[list[int]]) -> float:
        began = time.perf_counter()
        for places in asked:
            order.samples(places)
        return (time.perf_counter() - began) / sum(map(len, asked)) * 1e6

    starts = np.random.default_rng(0).integers(0, 3 * SAMPLES // GLOBAL, 50).tolist()
    alone = [[place] for start in starts for place in steps(start)[:4]]
    return cost([steps(16 * i) for i in range(50)]), cost([steps(start) for start in starts]), cost(alone)


def distinct_scenes(window: int, scattered: bool, scenes: int = 200, tiles: int = 1000) -> tuple[float, float]:
    """Mean number of scenes in a batch of 16, and what a perfect shuffle has, with as many shards as scenes.

    Args:
        window: shards shuffled together; 0: all.
        scattered: tiles lie all over the shards, as `arcticseg shards build` leaves them; else a scene is a shard.
    """
    n = scenes * tiles
    scene = np.repeat(np.arange(scenes), tiles)
    if scattered:
        scene = np.random.default_rng(0).permutation(scene)
    order = Order("f", (Stream(range(n), tuple(range(0, n + 1, tiles)) if window else (), window or 1),), 1)
    drawn = scene[order.samples(range(n))].reshape(-1, 16)
    distinct = np.mean([len(set(batch)) for batch in drawn.tolist()])
    return float(distinct), scenes * (1 - (1 - 1 / scenes) ** 16)


def main() -> int:
    """Measure, print, judge."""
    print(f"Python {platform.python_version()}, numpy {np.__version__}, {platform.machine()}")
    print(f"{SAMPLES:,} samples, {RANKS:,} ranks, global batch {GLOBAL:,}; before planning {memory():.3f} GB")
    failed = []
    worst = [0.0, 0.0]
    for name, make in make_orders().items():
        began = time.perf_counter()
        order = make()
        order.samples([0])
        seconds = time.perf_counter() - began
        on, anywhere, alone = position_cost(order)
        print(
            f"{name}: planned in {seconds:.3f} s; {on:.1f} us a sample going on, {anywhere:.1f} us from anywhere, "
            f"{alone:.1f} us where one place is asked for alone"
        )
        worst = [max(worst[0], seconds), max(worst[1], on, anywhere)]
        failed += [name] if seconds > SECONDS or max(on, anywhere) > MICROSECONDS else []
    peak = memory()
    failed += ["memory"] if peak > GIGABYTES else []
    mixing = []
    for name, window, scattered in (
        ("global", 0, True),
        (f"blocks of {WINDOW} shards", WINDOW, True),
        (f"blocks of {WINDOW} shards of one scene each", WINDOW, False),
    ):
        distinct, perfect = distinct_scenes(window, scattered)
        mixing.append(distinct / perfect)
        print(f"scenes in a batch of 16, {name}: {distinct:.3f}, perfect shuffle {perfect:.3f}")
    failed += ["scenes"] if abs(mixing[0] - 1) > SCENES_OFF else []
    print(
        f"{'FAILED ' + ', '.join(failed) if failed else 'ok'}: planned in {worst[0]:.3f} s (limit {SECONDS:.0f}), "
        f"{worst[1]:.1f} us a sample (limit {MICROSECONDS:.0f}), peak {peak:.3f} GB (limit {GIGABYTES:.0f}), "
        f"scenes in a batch {mixing[0]:.3f} of a perfect shuffle (0.95-1.05), by blocks {mixing[1]:.3f}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
