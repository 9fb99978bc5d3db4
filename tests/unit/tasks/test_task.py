"""Losses from sums and counts, and a task that owns parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from numpy.typing import NDArray
from torch import Tensor, nn

from arcticseg.data.inputs import Content, Inputs
from arcticseg.tasks.task import Forward, Objective, Task
from tests.tensors import inputs_of, labels_like


class Moments(Task):
    """Two terms: distance of an output to the input, and its square."""

    terms = ("distance", "square")
    weights = (2.0, 0.5)
    best_by = ("distance",)

    def counts(self, content: Content) -> Tensor:
        return torch.full((2,), 3.0 * content.size**2 * len(content.place), dtype=torch.float64)

    def sums(self, network: Forward, inputs: Inputs) -> Tensor:
        error = network(inputs.seen).float() - inputs.x
        return torch.stack([error.abs().sum(), error.square().sum()])

    def tally(self, network: Forward, inputs: Inputs, n: int) -> Tensor:
        return self.sums(network, inputs).detach()

    def scores(self, total: NDArray[Any]) -> dict[str, float | None]:
        return {"distance": -float(total[0])}


class Learned(Moments):
    """The same with learned weights (Kendall et al., CVPR 2018): exp(-s) x term + s once a step."""

    def __init__(self) -> None:
        super().__init__()
        self.logs = nn.Parameter(torch.tensor([0.5, -0.25]))

    def loss(self, sums: Tensor, counted: Tensor, parts: int) -> Tensor:
        return (torch.exp(-self.logs) * sums / counted.float() + self.logs / parts).sum()


def parts_of(inputs: Inputs, size: int) -> list[Inputs]:
    names = ("place", "x", "data", "dropped", "labels")
    return [Inputs(*(getattr(inputs, n)[i : i + size] for n in names)) for i in range(0, len(inputs.x), size)]


@pytest.fixture
def inputs() -> Inputs:
    torch.manual_seed(0)
    return inputs_of(torch.randn(4, 3, 2, 2), labels_like((4, 3, 2, 2), 6))


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Conv2d(3, 3, 1)


def test_the_loss_is_the_weighted_sum_of_means_however_a_batch_is_cut(inputs: Inputs) -> None:
    task, model = Moments(), network()
    sums, counted = task.sums(model, inputs), task.counts(inputs)
    expected = 2.0 * sums[0] / 48 + 0.5 * sums[1] / 48
    torch.testing.assert_close(task.loss(sums, counted, 1), expected)
    for size in (1, 2):
        cut = parts_of(inputs, size)
        shares = [task.loss(task.sums(model, part), counted, len(cut)) for part in cut]
        torch.testing.assert_close(torch.stack(shares).sum(), expected)
    means = (sums.double() / counted).unbind()
    torch.testing.assert_close(task.weighted(means, counted).float(), expected)


def test_a_term_without_anything_that_counts_adds_nothing() -> None:
    loss = Moments().loss(torch.tensor([0.0, 6.0]), torch.tensor([0.0, 3.0], dtype=torch.float64), 1)
    assert float(loss) == 1.0


def gradients(objective: Objective, cut: list[Inputs], counted: Tensor) -> dict[str, Tensor]:
    objective.zero_grad()
    for part in cut:
        loss, sums = objective(part, counted, len(cut), torch.float32)
        assert sums.shape == (2,)
        loss.backward()
    return {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}


def test_a_task_that_owns_parameters_learns_inside_the_objective(inputs: Inputs) -> None:
    task = Learned()
    assert task.learns
    assert not Moments().learns
    objective = Objective(network(), task)
    assert {name.partition(".")[0] for name, _ in objective.named_parameters()} == {"network", "task"}
    counted = task.counts(inputs)
    whole = gradients(objective, [inputs], counted)
    assert whole.keys() == dict(objective.named_parameters()).keys()
    # d/ds of exp(-s) m + s is 1 - exp(-s) m.
    means = task.sums(objective.network, inputs).detach() / 48
    torch.testing.assert_close(whole["task.logs"], 1 - torch.exp(-task.logs.detach()) * means)
    for size in (1, 2):
        for name, gradient in gradients(objective, parts_of(inputs, size), counted).items():
            torch.testing.assert_close(gradient, whole[name])


def test_an_objective_gives_images_to_the_network(inputs: Inputs) -> None:
    model = network()
    objective = Objective(model, Learned())
    assert torch.equal(objective(inputs.x), model(inputs.x))


def test_an_objective_casts_what_the_network_sees(inputs: Inputs) -> None:
    seen: list[torch.dtype] = []

    class Watch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.dtype)
            return x

    task = Learned()
    loss, sums = Objective(Watch(), task)(inputs, task.counts(inputs), 1, torch.bfloat16)
    assert seen == [torch.bfloat16]
    assert (loss.dtype, sums.dtype) == (torch.float32, torch.float32)
    np.testing.assert_allclose(sums.detach(), 0, atol=0.2)
