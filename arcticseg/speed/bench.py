"""The speed of a training on this machine: rows of measurements, one after the other, and what they say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from arcticseg.engine import process_group
from arcticseg.run.config import RunConfig
from arcticseg.speed import measure
from arcticseg.speed.clock import Phases, rounded
from arcticseg.speed.device import device_here
from arcticseg.speed.measure import Row
from arcticseg.speed.ranks import communication
from arcticseg.speed.turns import TurnOnTheClock


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        phases: of the trainer; warm-up and timed steps are the bare loop's, too.
        seconds: of the loader alone.
        pairs: trainer beside a bare DeepSpeed loop; 0: not measured.
        ranks: that talk; 1: not measured.
    """

    phases: Phases
    seconds: float
    pairs: int = 0
    ranks: int = 1


def rows(cfg: RunConfig, effort: Effort, of_ranks: RunConfig | None = None) -> Iterator[tuple[str, Row]]:
    """What was measured and the row, as they come.

    Args:
        cfg: of one rank, such as `standin` makes it.
        of_ranks: that of `effort.ranks` ranks; None: talking is not measured.
    """
    device, turn = device_here(), TurnOnTheClock()
    work = measure.work_here(cfg)
    turn.take()
    here = measure.machine(device)
    alone = measure.loader_alone(cfg, device, effort.seconds)
    turn.give()
    yield "machine", here
    yield "loader", alone

    def rated(row: Row) -> Row:
        return row | measure.efficiency(work, row["samples_per_s"], here["product_tflops"])

    if torch.cuda.is_available() or not effort.pairs:
        bare = measure.bare(cfg, device, effort.phases.warmup, effort.phases.timed)
        yield "bare loop", rated(bare)
        trained = measure.trainer(cfg, effort.phases)
        yield "trainer", rated(trained) | {"of_bare": trained["samples_per_s"] / bare["samples_per_s"]}
    else:
        with process_group.kept():
            yield "trainer", rated(measure.trainer(cfg, effort.phases))
            yield "trainer over bare DeepSpeed loop", measure.overhead(cfg, effort.phases, effort.pairs)
    if effort.ranks > 1 and of_ranks is not None:
        shared = communication(of_ranks, Phases(effort.phases.warmup, effort.phases.timed), effort.ranks)
        yield f"{effort.ranks} ranks", shared


def line(name: str, row: Mapping[str, Any]) -> str:
    """A row for people; lists and mappings are for the file."""
    short = {key: value for key, value in rounded(row).items() if not isinstance(value, (list, dict))}
    return f"{name}: " + ", ".join(f"{key} {value}" for key, value in short.items())


# Share of the step above which something is named as what bounds the training.
_DATA_WAIT, _TALK, _HOST = 0.02, 0.15, 0.95


def verdict(measured: Mapping[str, Row]) -> str:
    """What bounds the training, and what to try."""
    trained, loader = measured["trainer"], measured["loader"]
    bare = measured.get("bare loop")
    talk = next((row["communication"] for name, row in measured.items() if name.endswith(" ranks")), 0.0)
    if trained.get("data_wait", 0.0) > _DATA_WAIT or loader["samples_per_s"] < trained["samples_per_s"]:
        return (
            f"bound by data: {trained.get('data_wait', 0.0):.1%} of a step waits for the loader, which alone gives "
            f"{loader['samples_per_s']:.0f} samples/s; raise data.workers, or keep shards on a local disk (data.cache)"
        )
    if talk > _TALK:
        return (
            f"bound by communication: {talk:.0%} of a step; raise engine.global_batch_size, so that ranks talk less "
            "often, or set engine.zero_stage to 1"
        )
    if bare is not None and trained["samples_per_s"] < _HOST * bare["samples_per_s"]:
        return (
            f"bound by the host: {trained['samples_per_s'] / bare['samples_per_s']:.0%} of a bare loop; raise "
            "engine.micro_batch_size, and look for hooks that read tensors at each step"
        )
    return (
        f"bound by the network: {trained['mfu']:.0%} of what the device's matrix product reaches; raise "
        "engine.micro_batch_size as far as memory goes, and set engine.compile to true"
    )
