"""A training without DeepSpeed, data or ranks, for tests of trainer, checkpoints and hooks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from arcticseg.data.inputs import Content, Inputs
from arcticseg.engine.checkpoint import Position
from arcticseg.engine.config import EngineConfig, OptimConfig
from arcticseg.engine.hooks.hook import Hook, Training
from arcticseg.engine.length import Length
from arcticseg.engine.process_group import Ranks
from arcticseg.engine.step import Step
from arcticseg.engine.stop import StopWish
from arcticseg.engine.trainer import Every, Trainer
from arcticseg.tasks.task import Forward, Task

ALONE = Ranks(rank=0, local_rank=0, world_size=1, local_world_size=1, device=torch.device("cpu"))
STEPS = 6
# What a log line of it tells.
LOGGED = [
    "loss",
    "loss_halving",
    "lr",
    "lr/x1",
    "grad_norm",
    "skipped",
    "samples_per_s",
    "data_wait",
    "speed/samples_per_s_a_gpu",
    "speed/step_ms_p50/rank_0",
    "speed/step_ms_p99/rank_0",
    "memory/host_gb/rank_0",
]


class Halving(Task):
    """Bring a weight to half of what it sees."""

    terms = ("halving",)
    weights = (3.0,)
    best_by = ("halving",)

    def counts(self, content: Content) -> Tensor:
        return torch.ones(1, dtype=torch.float64)

    def sums(self, network: Forward, inputs: Inputs) -> Tensor:
        return (network(inputs.seen) - inputs.x / 2).square().sum()[None]

    def tally(self, network: Forward, inputs: Inputs, n: int) -> Tensor:
        return self.sums(network, inputs)

    def scores(self, total: NDArray[Any]) -> dict[str, float | None]:
        return {"halving": -float(total[0])}


def engine_of(network: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    """What code beside the training loop asks of a DeepSpeed engine, in stage 0 on one rank."""
    return SimpleNamespace(
        module=network,
        optimizer=optimizer,
        zero_optimization_stage=lambda: 0,
        fp16_enabled=lambda: False,
        global_rank=0,
        dp_world_size=1,
    )


class Plain(Step):
    """Gradient descent. Steps whose numbers are in `bad` are left out."""

    norm = torch.tensor(1.0)

    def __init__(self, network: nn.Module, task: Task, engine: Any, bad: Sequence[int]) -> None:
        self.network, self.task, self.engine, self.bad = network, task, engine, bad
        self.number, self.flags = 0, list[bool]()

    def __call__(self, inputs: Sequence[Inputs], counted: Tensor, rate: float) -> Tensor:
        total = torch.zeros(len(counted))
        self.network.zero_grad()
        for item in inputs:
            sums = self.task.sums(self.network, item)
            self.task.loss(sums, counted, len(inputs)).backward()
            total += sums.detach()
        self.number += 1
        self.flags.append(self.number in self.bad)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        if not self.flags[-1]:
            self.engine.optimizer.step()
        return total

    def forward(self, x: Tensor, *rest: Any) -> Any:
        return self.network(x, *rest)

    def train(self, mode: bool = True) -> None:
        self.network.train(mode)

    @property
    def engines(self) -> dict[str, Any]:
        return {"": self.engine}

    @property
    def left_out(self) -> Tensor:
        return torch.tensor(float(self.number in self.bad))

    def read_skipped(self) -> list[bool]:
        flags, self.flags = self.flags, []
        return flags


@dataclass(frozen=True)
class Value:
    """A batch of one value, drawn by its place."""

    place: Tensor
    size: int = 1
    drawn: Tensor | None = None
    seeds: Tensor | None = None


class Batches:
    """A loader of one value a step."""

    damaged, trouble, waited = 0, False, 0.0

    def __init__(self, consumed: int = 0) -> None:
        self.consumed = self.read = consumed

    def copies_on(self, stream: Any) -> None:
        pass

    def step(self, in_use: int = 0) -> list[Value]:
        self.read += 1
        return [Value(torch.tensor([self.read - 1]))]

    def names(self, consumed: int) -> list[str]:
        return [f"value {consumed}"]

    def stepped(self) -> None:
        self.consumed += 1

    def state_dict(self) -> dict[str, Any]:
        return {"consumed": self.consumed}


class Assembler:
    """Makes the inputs of a step."""

    def __call__(self, batch: Value) -> Inputs:
        x = torch.full((1, 1, 1, 1), 1.0 + np.sin(batch.place.item()))
        yes = torch.ones(1, 1, 1, 1, dtype=torch.bool)
        return Inputs(batch.place, x, yes, ~yes[..., 0, 0], torch.zeros(1, 3, 1, 1, dtype=torch.uint8))


class Validation:
    """Two validation samples."""

    damages: tuple[Any, ...] = ()

    def __iter__(self) -> Iterator[tuple[Value, int]]:
        return iter([(Value(torch.tensor([place])), 1) for place in (100, 101)])


def trainer_of(
    out: Path,
    hooks: Sequence[Hook],
    position: Position | None = None,
    lr: float = 0.05,
    log: int = 2,
    bad: Sequence[int] = (),
    until: int | None = None,
    wish: StopWish | None = None,
) -> Trainer:
    """A trainer of `STEPS` steps that validates every second and writes a checkpoint every third step."""
    position = position or Position()
    network = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(network.weight)
    task = Halving()
    engine = engine_of(network, torch.optim.SGD(network.parameters(), lr=lr, momentum=0.5))
    step = Plain(network, task, engine, bad)
    return Trainer(
        training=Training(out, engine, step, task, ALONE, {"config": "{}"}, position.step, STEPS),
        engine=EngineConfig(global_batch_size=1),
        optim=OptimConfig(lr=lr, warmup=0.0),
        assemble=Assembler(),  # type: ignore[arg-type]
        loader=Batches(position.loader.get("consumed", 0)),  # type: ignore[arg-type]
        validation=Validation(),  # type: ignore[arg-type]
        length=Length(STEPS, 0, 1),
        every=Every(validation=2, checkpoint=3, log=log),
        hooks=hooks,
        position=position,
        seed=0,
        until=until,
        wish=wish or StopWish(),
    )


class Mean(Hook):
    """The mean of the weights after each step, kept in checkpoints."""

    name = "mean"

    def __init__(self) -> None:
        self.count = 0
        self.sums: dict[str, Tensor] = {}

    def on_start(self, training: Training) -> None:
        self.module = training.engine.module

    def on_step(self, step: int, values: Any) -> None:
        self.count += 1
        for name, value in self.module.state_dict().items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().double()

    @property
    def weights(self) -> dict[str, Tensor]:
        """Name -> mean."""
        return {name: value / self.count for name, value in self.sums.items()}

    def state(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state(self, state: Any) -> None:
        self.count = state["count"]

    def tensors(self) -> dict[str, Tensor]:
        return self.sums

    def load_tensors(self, tensors: Any) -> None:
        self.sums = dict(tensors)


class StopAt(Hook):
    """Asks for an end once a step is done."""

    name = "stop_at"

    def __init__(self, step: int) -> None:
        self.step, self.done = step, 0

    def on_step(self, step: int, values: Any) -> None:
        self.done = step

    def wants_stop(self) -> bool:
        return self.done >= self.step
