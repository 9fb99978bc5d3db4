"""A step of two optimisers against the same written out in plain torch, as published."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn

from arcticseg.data.inputs import Inputs
from arcticseg.engine.adversarial_step import AdversarialStep
from arcticseg.models.build import build_autoencoder
from arcticseg.models.discriminator import PatchDiscriminator
from arcticseg.tasks.adversarial import Adversarial
from tests.networks import small
from tests.tensors import inputs_of

SIZE, PARTS, PLANES, RATE, WEIGHT = 32, 3, 3, 0.05, 0.5


class Engine:
    """What a step asks of DeepSpeed: mean over micro batches of what is backpropagated, then one optimiser step."""

    dp_world_size = 1

    def __init__(self, module: nn.Module) -> None:
        self.module, self.steps = module, 0
        self.optimizer: Any = torch.optim.SGD(module.parameters(), lr=9.0, fused=True)

    def __call__(self, *arguments: Any) -> Any:
        return self.module(*arguments)

    def backward(self, loss: Tensor) -> None:
        (loss / PARTS).backward()

    def step(self) -> None:
        self.steps += 1
        if self.steps % PARTS == 0:
            self.optimizer.step()
            self.optimizer.zero_grad()

    def train(self, mode: bool) -> None:
        self.module.train(mode)

    def zero_optimization_stage(self) -> int:
        return 0

    def fp16_enabled(self) -> bool:
        return False


def networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    network = build_autoencoder(small("light"), PLANES, SIZE, 2, decoder_dim=16, decoder_depth=1, decoder_heads=2)
    return network, PatchDiscriminator(2, 4, 2)


def task_of() -> Adversarial:
    return Adversarial([0, 2], 8, 0.5, 3, True, stride=4)


def batch(step: int) -> list[Inputs]:
    torch.manual_seed(step)
    labels = torch.full((2, 3, SIZE, SIZE), 255, dtype=torch.uint8)
    x = torch.randn(PARTS, 2, PLANES, SIZE, SIZE)
    data = torch.rand(x.shape) > torch.rand(PARTS, 1, 1, 1, 1)
    items = [inputs_of(a * b, labels, b) for a, b in zip(x, data, strict=True)]
    for number, item in enumerate(items):
        object.__setattr__(item, "place", torch.tensor([2 * number, 2 * number + 1]))
    return items


def step_of(network: nn.Module, discriminator: nn.Module, start: int = 0, clip: float = 0.0) -> AdversarialStep:
    return AdversarialStep(
        Engine(network),
        Engine(discriminator),
        task_of(),
        torch.float32,
        1,
        clip,
        weight=WEIGHT,
        lr_scale=2.0,
        begun=0,
        start=start,
    )


def counted(items: list[Inputs]) -> Tensor:
    return torch.stack([task_of().counts(item) for item in items]).sum(0)


def plainly(network: nn.Module, discriminator: nn.Module, items: list[Inputs], ratio: float) -> float:
    """One step of gradient descent of both on the whole batch; the next ratio."""
    task, counts = task_of(), counted(items)
    reconstruction, adversarial, discrimination = torch.zeros(1), torch.zeros(1), torch.zeros(1)
    for item in items:
        prediction, _ = network(item.seen, task._kept(item))
        reconstruction = reconstruction + Adversarial.reconstruction(task, prediction, item)
        painted = task.painted(prediction, item)
        adversarial = adversarial + task.adversarial(discriminator(painted.fake), painted.cells)
        logits = [discriminator(images) for images in (painted.real, painted.fake.detach())]
        discrimination = discrimination + task.discrimination(*logits, painted.cells)
    last = network.decoder_pred.weight
    terms = [(term / count).sum() for term, count in zip((reconstruction, adversarial), counts, strict=False)]
    norms = [torch.autograd.grad(term, last, retain_graph=True)[0].norm() for term in terms]
    judged = list(discriminator.parameters())
    of_judged = torch.autograd.grad((discrimination / counts[2]).sum(), judged, retain_graph=True)
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    of_network = torch.autograd.grad(terms[0] + WEIGHT * ratio * terms[1], learned, allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(learned, of_network, strict=True):
            if gradient is not None:
                parameter -= RATE * gradient
        for parameter, gradient in zip(judged, of_judged, strict=True):
            parameter -= 2 * RATE * gradient
    return min(float(norms[0] / (norms[1] + 1e-4)), 1e4)


def test_steps_are_those_of_plain_torch_on_the_whole_batch() -> None:
    network, discriminator = networks()
    plain = copy.deepcopy(network), copy.deepcopy(discriminator)
    step, ratio = step_of(network, discriminator), 0.0
    for number in range(3):
        items = batch(number)
        sums = step(items, counted(items), RATE)
        assert float(step.values["adversarial_weight"]) / WEIGHT == pytest.approx(
            ratio := plainly(*plain, items, ratio), rel=1e-4
        )
        assert (sums != 0).all()
        for ours, theirs in zip((network, discriminator), plain, strict=True):
            for (name, parameter), expected in zip(ours.named_parameters(), theirs.parameters(), strict=True):
                torch.testing.assert_close(
                    parameter, expected, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
                )


def test_before_its_start_there_is_reconstruction_alone() -> None:
    network, discriminator = networks()
    initial = copy.deepcopy(discriminator.state_dict())
    step, items = step_of(network, discriminator, start=1), batch(0)
    first = step(items, counted(items), RATE)
    assert first[0] > 0
    assert first[1:].tolist() == [0, 0]
    assert all(torch.equal(initial[name], value) for name, value in discriminator.state_dict().items())
    second = step(items, counted(items), RATE)
    assert (second != 0).all()
    assert not torch.equal(initial["logit.weight"], discriminator.logit.weight)
    assert step.read_skipped() == [False, False]
    assert set(step.engines) == {"", "discriminator"}


@pytest.mark.parametrize("where", ["input", "discriminator"])
def test_a_step_with_nan_in_either_network_is_left_out_by_both(where: str) -> None:
    network, discriminator = networks()
    step, items = step_of(network, discriminator, clip=1.0), batch(0)
    step(items, counted(items), RATE)
    ratio = step.tensors()["ratio"].clone()
    if where == "input":
        items[1].x[0, 0, 0, 0] = float("nan")
        items[1].data[0, 0, 0, 0] = True
    else:
        discriminator.logit.weight.data[0, 0, 0, 0] = float("inf")
    before = [copy.deepcopy(part.state_dict()) for part in (network, discriminator)]
    step(items, counted(items), RATE)
    assert step.read_skipped() == [False, True]
    for part, state in zip((network, discriminator), before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in part.state_dict().items())
    assert torch.equal(step.tensors()["ratio"], ratio)


def test_a_batch_without_data_leaves_the_weight_as_it_is() -> None:
    network, discriminator = networks()
    step, items = step_of(network, discriminator), batch(0)
    step.load_tensors({"ratio": torch.tensor(3.0)})
    empty = [inputs_of(torch.zeros_like(item.x), item.labels, torch.zeros_like(item.data)) for item in items]
    assert step(empty, counted(empty), RATE).tolist() == [0, 0, 0]
    assert step.tensors()["ratio"] == 3
    assert step.read_skipped() == [False]
