"""Trainings that go on with other ranks and in another ZeRO stage: the losses stay on the curve.

python -m tests.moves --moves 12 --seed 1
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.chaos import shards_in
from tests.training import VIT, empty_config, lines, overrides, train

# Losses of so many steps after a move are compared.
BEFORE, AFTER = 4, 20
# Largest relative difference: float32 sums in another order; bf16 rounds activations, and weights after each step.
BOUNDS = {"fp32": 1e-4, "bf16": 2e-2}
STAGES = {"fp32": (0, 1, 2, 3), "bf16": (1, 2, 3)}
RANKS = (1, 2, 4)


@dataclass(frozen=True)
class Place:
    """How a training runs."""

    ranks: int
    stage: int

    def __str__(self) -> str:
        return f"{self.ranks} rank{'s' if self.ranks > 1 else ''} in stage {self.stage}"


@dataclass(frozen=True)
class Move:
    """Where a training begins, and where it goes on."""

    precision: str
    before: Place
    after: Place

    def __str__(self) -> str:
        return f"{self.precision}: {self.before} -> {self.after}"


def moves(count: int, seed: int) -> list[Move]:
    """Random moves, each once, as many of each precision as can be."""
    draw = random.Random(seed)
    by_precision = []
    for precision, stages in STAGES.items():
        places = [Place(ranks, stage) for ranks in RANKS for stage in stages]
        every = [Move(precision, before, after) for before in places for after in places if before != after]
        by_precision.append(draw.sample(every, (count + 1) // 2))
    return [move for pair in zip(*by_precision, strict=True) for move in pair][:count]


def largest_difference(move: Move, shards: Path, folder: Path) -> float:
    """Largest relative difference of losses after a move to those of a training that stayed."""
    config, moved, stayed = empty_config(folder), folder / "moved", folder / "stayed"

    def go(out: Path, place: Place, steps: int, resume: bool) -> None:
        settings = VIT | {"steps": BEFORE, "optim.warmup": 0, "optim.final_lr": 1, "engine.zero_stage": place.stage}
        settings |= {"engine.precision": move.precision, "tracking.every": 1}
        change = ["--change", f"steps={steps}"] if resume else []
        train(config, [*overrides(shards, out, settings), *change], place.ranks, resume)

    go(stayed, move.before, BEFORE, resume=False)
    shutil.copytree(stayed, moved)
    go(stayed, move.before, BEFORE + AFTER, resume=True)
    go(moved, move.after, BEFORE + AFTER, resume=True)
    expected, losses = (np.array([line["loss"] for line in lines(out, "train")]) for out in (stayed, moved))
    assert len(expected) == len(losses) == BEFORE + AFTER
    return float(np.abs(losses / expected - 1).max())


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; status 1 where a move leaves the curve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moves", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    bad = 0
    with tempfile.TemporaryDirectory() as name:
        shards = shards_in(Path(name))
        for number, move in enumerate(moves(arguments.moves, arguments.seed)):
            folder = Path(name) / str(number)
            folder.mkdir()
            difference = largest_difference(move, shards, folder)
            good = difference <= BOUNDS[move.precision]
            bad += not good
            told = f"largest relative difference of {AFTER} losses {difference:.1e}, bound {BOUNDS[move.precision]:.0e}"
            print(f"{move}: {told}: {'ok' if good else 'FAILED'}", flush=True)
    print(f"{arguments.moves - bad} of {arguments.moves} moves stay on the curve")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
