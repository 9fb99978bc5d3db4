"""Training loops with nothing but the arithmetic: what the trainer is compared with."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, cast

import torch
from torch import Tensor, nn

from arcticseg.data.batch import Batch
from arcticseg.data.transforms import Assemble
from arcticseg.engine.config import EngineConfig, OptimConfig
from arcticseg.engine.deepspeed_engine import deepspeed_config
from arcticseg.engine.optim import make_optimizer, parameter_groups
from arcticseg.engine.process_group import Ranks
from arcticseg.tasks.task import Task


class Masters:
    """Float32 copies of a network's weights, flat, stepped by its optimiser after clipping: as ZeRO 1 on one rank."""

    def __init__(self, network: nn.Module, optim: OptimConfig) -> None:
        self._clip = optim.clip
        self._weights: list[Tensor] = []
        self._masters: list[Tensor] = []
        self._gradients: list[Tensor] = []
        self._flat: list[Tensor] = []
        groups = []
        for group in parameter_groups(network, optim.weight_decay):
            weights = cast("list[nn.Parameter]", group["params"])
            flat = nn.Parameter(torch.cat([weight.detach().float().flatten() for weight in weights]))
            flat.grad = torch.zeros_like(flat)
            self._weights += weights
            self._masters += _pieces(flat.detach(), weights)
            self._gradients += _pieces(flat.grad, weights)
            self._flat.append(flat.grad)
            groups.append({"params": [flat], "weight_decay": group["weight_decay"]})
        self._optimizer = optim.make(groups)

    def step(self) -> None:
        """Take the network's gradients, step, and give it the new weights."""
        torch._foreach_copy_(self._gradients, [cast(Tensor, weight.grad) for weight in self._weights])
        if self._clip:
            norm = torch.stack([torch.linalg.vector_norm(gradient) for gradient in self._flat]).norm()
            torch._foreach_mul_(self._flat, (self._clip / (norm + 1e-6)).clamp(max=1.0))
        self._optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(self._weights, self._masters)
        for weight in self._weights:
            weight.grad = None


def _pieces(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    pieces = flat.split([tensor.numel() for tensor in like])
    return [piece.view_as(tensor) for piece, tensor in zip(pieces, like, strict=True)]


@dataclass
class Bare:
    """A loop of one rank over the same batches again and again; each is assembled when its turn comes.

    Attributes:
        network: in the precision of training, on the device; compiled or not.
        batches: on the device.
        masters: take the gradients and step.
    """

    network: Any
    task: Task
    assemble: Assemble
    batches: Sequence[Batch]
    masters: Masters
    dtype: torch.dtype

    def __post_init__(self) -> None:
        self._turns = cycle(self.batches)

    def step(self) -> None:
        """One optimiser step of one micro batch."""
        loss_of(self.task, self._forward, self.assemble(next(self._turns)), 1).backward()
        self.masters.step()

    def _forward(self, x: Tensor, *rest: Any) -> Any:
        return self.network(x.to(self.dtype), *rest)


@dataclass
class BareDeepSpeed:
    """A plain loop around a DeepSpeed engine: micro batches of the loader, forward, backward, step.

    Attributes:
        ready: makes a batch of the loader ready for `assemble`, on the device.
    """

    engine: Any
    task: Task
    assemble: Assemble
    loader: Any
    ready: Callable[[Batch], Batch]
    dtype: torch.dtype

    def step(self) -> None:
        """One optimiser step."""
        for batch in self.loader.step():
            # DeepSpeed takes the mean over micro batches.
            loss = loss_of(self.task, self._forward, self.assemble(self.ready(batch)), 1)
            self.engine.backward(loss)
            self.engine.step()
        self.loader.stepped()

    def _forward(self, x: Tensor, *rest: Any) -> Any:
        return self.engine(x.to(self.dtype), *rest)


def loss_of(task: Task, forward: Any, inputs: Any, parts: int) -> Tensor:
    """The loss of one micro batch by itself."""
    counted = task.counts(inputs)
    return task.loss(task.sums(forward, inputs), counted, parts)


def plain_engine(network: nn.Module, cfg: EngineConfig, optim: OptimConfig, ranks: Ranks) -> Any:
    """A DeepSpeed engine as its own documentation makes one, which clips gradients itself."""
    import deepspeed

    config = deepspeed_config(cfg, ranks.world_size)
    config |= {"gradient_clipping": optim.clip, "zero_optimization": {"stage": cfg.zero_stage}}
    with contextlib.redirect_stdout(io.StringIO()):
        engine, *_ = deepspeed.initialize(
            model=network, optimizer=make_optimizer(network, optim), config=config, dist_init_required=False
        )
    return engine
