"""A step of a DeepSpeed engine, on an engine that only writes down what it is asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from numpy.typing import NDArray
from torch import Tensor, nn

from arcticseg.data.inputs import Content, Inputs
from arcticseg.engine.step import DeepSpeedStep
from arcticseg.tasks.task import Forward, Objective, Task
from tests.tensors import inputs_of, labels_like


class Engine:
    """What a step asks of DeepSpeed: mean over micro batches of what is backpropagated, then one optimiser step."""

    dp_world_size = 1

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, micro_steps: int) -> None:
        self.module, self.optimizer, self.micro_steps = module, optimizer, micro_steps
        self.steps = 0
        self.rates: list[list[float]] = []

    def __call__(self, *arguments: Any) -> Any:
        return self.module(*arguments)

    def backward(self, loss: Tensor) -> None:
        (loss / self.micro_steps).backward()

    def step(self) -> None:
        self.steps += 1
        if self.steps % self.micro_steps == 0:
            self.rates.append([group["lr"] for group in self.optimizer.param_groups])
            self.optimizer.step()
            self.optimizer.zero_grad()

    def train(self, mode: bool) -> None:
        self.module.train(mode)

    def zero_optimization_stage(self) -> int:
        return 0

    def fp16_enabled(self) -> bool:
        return False


class Distance(Task):
    """Squared distance to the input."""

    terms = ("distance",)
    weights = (1.0,)
    best_by = ("distance",)

    def counts(self, content: Content) -> Tensor:
        return torch.tensor([3.0 * content.size**2 * len(content.place)], dtype=torch.float64)

    def sums(self, network: Forward, inputs: Inputs) -> Tensor:
        return (network(inputs.seen) - inputs.x).square().sum()[None]

    def tally(self, network: Forward, inputs: Inputs, n: int) -> Tensor:
        return torch.zeros(1)

    def scores(self, total: NDArray[Any]) -> dict[str, float | None]:
        return {"distance": None}


class Scaled(Distance):
    """The same with a learned weight."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def loss(self, sums: Tensor, counted: Tensor, parts: int) -> Tensor:
        return self.scale * super().loss(sums, counted, parts)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, 3, 1)


def sgd(module: nn.Module, *scales: float) -> torch.optim.Optimizer:
    """One group a parameter, with these scales where they are given."""
    groups: list[dict[str, Any]] = [{"params": [parameter]} for parameter in module.parameters()]
    for group, scale in zip(groups, scales, strict=False):
        group["lr_scale"] = scale
    return torch.optim.SGD(groups, lr=99.0, fused=True)


@pytest.fixture
def batch() -> list[Inputs]:
    torch.manual_seed(1)
    return [inputs_of(torch.randn(2, 3, 4, 4), labels_like((2, 3, 4, 4), 6)) for _ in range(3)]


def trained(task: Task, batch: list[Inputs], rate: float, *scales: float) -> tuple[Engine, Tensor]:
    """An engine after one step."""
    module = Objective(network(), task) if task.learns else network()
    engine = Engine(module, sgd(module, *scales), len(batch))
    step = DeepSpeedStep(engine, task, torch.float32, world_size=1, clip=0.0)
    counted = torch.stack([task.counts(item) for item in batch]).sum(0)
    return engine, step(batch, counted, rate)


def test_a_step_follows_the_gradient_of_the_mean_over_the_global_batch(batch: list[Inputs]) -> None:
    engine, sums = trained(Distance(), batch, 0.5)
    expected = network()
    x = torch.cat([item.x for item in batch])
    loss = (expected(x) - x).square().mean()
    loss.backward()
    for parameter, reference in zip(engine.module.parameters(), expected.parameters(), strict=True):
        assert reference.grad is not None
        torch.testing.assert_close(parameter, reference - 0.5 * reference.grad)
    assert float(sums) == pytest.approx(loss.item() * x.numel(), rel=1e-5)
    assert not sums.requires_grad


def test_a_groups_scale_multiplies_the_rate(batch: list[Inputs]) -> None:
    engine, _ = trained(Distance(), batch, 0.5, 0.1)
    assert engine.rates == [[pytest.approx(0.05), 0.5]]
    engine, _ = trained(Distance(), batch, 0.5, 0.0, 2.0)
    assert engine.rates == [[0.0, 1.0]]
    assert torch.equal(next(engine.module.parameters()), next(network().parameters()))


def test_scales_are_those_of_now_whatever_a_checkpoint_brings(batch: list[Inputs]) -> None:
    task = Distance()
    module = network()
    engine = Engine(module, sgd(module, 0.5, 1.0), 3)
    step = DeepSpeedStep(engine, task, torch.float32, world_size=1, clip=0.0)
    for group in engine.optimizer.param_groups:
        group.pop("lr_scale")
    step(batch, torch.tensor([1.0], dtype=torch.float64), 0.5)
    assert engine.rates == [[0.25, 0.5]]


def test_a_task_that_owns_parameters_is_trained_with_the_network(batch: list[Inputs]) -> None:
    task = Scaled()
    engine, sums = trained(task, batch, 0.01)
    # d/d scale is the mean itself.
    mean = float(sums) / sum(item.x.numel() for item in batch)
    assert task.scale.item() == pytest.approx(2.0 - 0.01 * mean, rel=1e-5)
    assert not torch.equal(next(engine.module.network.parameters()), next(network().parameters()))


def test_the_network_computes_in_the_precision_of_training() -> None:
    engine = Engine(nn.Identity(), SimpleNamespace(param_groups=[]), 1)  # type: ignore[arg-type]
    step = DeepSpeedStep(engine, Distance(), torch.bfloat16, world_size=1, clip=0.0)
    assert step.forward(torch.ones(2)).dtype == torch.bfloat16


def test_the_rest_goes_to_the_engine() -> None:
    module = network()
    engine = Engine(module, sgd(module), 1)
    step = DeepSpeedStep(engine, Distance(), torch.float32, world_size=1, clip=0.0)
    step.train(False)
    assert not module.training
    step.train()
    assert module.training
    assert step.engines == {"": engine}
    assert step.read_skipped() == []
