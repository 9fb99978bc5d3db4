"""A training step from codes to the optimiser without a question to the device."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn

from arcticseg import config
from arcticseg.data.augment import Augment
from arcticseg.data.batch import Batch
from arcticseg.data.config import DataConfig
from arcticseg.data.decode import Layout
from arcticseg.data.inputs import Inputs
from arcticseg.data.loader import Loader, make_order
from arcticseg.data.manifest import read_manifest
from arcticseg.data.reader import SampleReader
from arcticseg.data.select import select
from arcticseg.data.share import Share
from arcticseg.data.transforms import Assemble, Planes
from arcticseg.engine.adversarial_step import AdversarialStep
from arcticseg.engine.feed import Feed
from arcticseg.engine.stage import Plain, Started
from arcticseg.engine.step import DeepSpeedStep
from arcticseg.ice.channels import GROUPS, expand
from arcticseg.models.build import build_autoencoder, build_segmenter
from arcticseg.models.config import HeadConfig
from arcticseg.models.config.auxiliary import AuxiliaryConfig
from arcticseg.models.discriminator import PatchDiscriminator
from arcticseg.models.drop_path import sample_seeds
from arcticseg.tasks.adversarial import Adversarial
from arcticseg.tasks.config import SegmentConfig
from arcticseg.tasks.pretrain import Pretrain
from arcticseg.tasks.segment import Segment, make_segment
from arcticseg.tasks.task import Task
from tests.networks import small
from tests.strict import AskedError, Strict, on_device, strict
from tests.unit.engine.trainings import ALONE

sys.path.append(str(Path(__file__).parents[1] / "data"))
import made

SIZE = 32
CHANNELS = expand(GROUPS)
# With the valid plane, and one for each group.
PLANES = len(CHANNELS) + 1 + len(GROUPS)


class Device(Plain):
    """Stands for a device: assembles all samples at once, into tensors that must not be asked."""

    def __init__(self, assemble: Assemble) -> None:
        super().__init__(assemble)
        self.assembled = 0

    def copied(self, batches: Iterable[Batch]) -> list[Batch]:
        return [on_device(self._assemble.plan(batch)) for batch in batches]

    def start(self, batch: Batch) -> Started:
        def give() -> Inputs:
            self.assembled += 1
            parts = vars(self._assemble.empty(len(batch), batch.size, torch.device("cpu")))
            planes = Planes(**{name: part if part is None else strict(part) for name, part in parts.items()})
            return self._assemble.into(batch, planes)

        return give


class Engine(nn.Module):
    """What a step asks of DeepSpeed."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)

    def forward(self, *arguments: Any) -> Any:
        return self.module(*arguments)

    def backward(self, loss: Tensor) -> None:
        loss.as_subclass(Tensor).backward()

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()


def segmentation(network: str, head: str) -> tuple[nn.Module, Task]:
    model = replace(small(network), heads={"SIC": HeadConfig.named(head)})
    built = build_segmenter(model, PLANES, SIZE)
    heads = {chart: built.head(chart) for chart in built.charts}
    return built, make_segment(SegmentConfig(), model, heads)


def every_term() -> tuple[nn.Module, Task]:
    """Weights of classes, several losses, agreement on water, auxiliary heads, charts weighed by their gradients."""
    losses = {"SOD": ["cross_entropy", "dice", "lovasz"], "FLOE": {"name": "dice", "over": "batch"}, "SIC": "huber"}
    segment = config.build(SegmentConfig, {"losses": losses, "consistency": 0.5, "balance": "gradient"})
    model = replace(small("unet"), auxiliary=AuxiliaryConfig(channels=8))
    built = build_segmenter(model, PLANES, SIZE)
    heads = {chart: built.head(chart) for chart in built.charts}
    weights = {"SIC": [1.0] * 10 + [3.0], "SOD": [0.5, 2.0, 1.0, 1.0, 0.0, 4.0]}
    return built, make_segment(segment, model, heads, weights, sar=0)


def pretraining(targets: tuple[str, ...], normalise: bool) -> tuple[nn.Module, Task]:
    planes = [CHANNELS.index(name) for name in expand(targets)]
    built = build_autoencoder(
        small("light"), PLANES, SIZE, len(planes), decoder_dim=16, decoder_depth=1, decoder_heads=2
    )
    return built, Pretrain(planes, built.patch, 0.75, 0, normalise)


TASKS: dict[str, Callable[[], tuple[nn.Module, Task]]] = {
    "ViT, regression": lambda: segmentation("light", "regression"),
    "UNet, classification": lambda: segmentation("unet", "classification"),
    "UNet, every term": every_term,
    "reconstruction of backscatter": lambda: pretraining(("hh", "hv"), False),
    "normalised reconstruction of all": lambda: pretraining(tuple(GROUPS), True),
}
AUGMENTS = {
    "none": Augment(),
    "turns": Augment(0, True, True, (("hh", 0.5), ("amsr2", 0.5))),
    "all": Augment(0, True, True, (("era5", 0.3),), 0.5, 0.8),
    "free": Augment(0, True, True, (("hv", 0.5),), 0.8, 0.5, 45, 1.2, 2, 0.3),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles with holes, without coarse cells, without angles and times, without labels."""
    path = tmp_path_factory.mktemp("shards")
    tiles = [made.tile(i, size=SIZE, cells=(3, 0, 5, 4)[i % 4], labelled=i % 3 > 0) for i in range(12)]
    tiles[0] = replace(tiles[0], time=None)
    tiles[0].geo[2, 0, 0] = np.nan
    made.write(path, tiles)
    return path


def feed_of(folder: Path, task: Task, dtype: Any, augment: Augment) -> Feed:
    selection = select(folder, read_manifest(folder), "train")
    order = make_order(selection, DataConfig(), "none", 0)
    loader = Loader(SampleReader(selection), Layout.of(SIZE, (4,), CHANNELS), order, Share(0, 1, 8, 4), augment=augment)
    assemble = Assemble(CHANNELS, True, want=task.want(dtype), missing_planes=True)

    def seeds(step: int, places: Tensor) -> Tensor:
        return sample_seeds(0, step, places)

    return Feed(loader, assemble, task, ALONE, stops=lambda: False, tell=lambda damages: None, seeds=seeds)


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("name", TASKS)
def test_a_step_asks_the_device_for_nothing(name: str, augment: str, folder: Path) -> None:
    torch.manual_seed(0)
    network, task = TASKS[name]()
    initial = {key: value.clone() for key, value in network.state_dict().items()}
    engine = Engine(network)
    step = DeepSpeedStep(engine, task, torch.float32, 1, clip=0.0)
    step._guard = SimpleNamespace(before_step=lambda sums: None)  # type: ignore[assignment]
    sums = []
    for strictly in (True, False):
        feed = feed_of(folder, task, torch.float32, AUGMENTS[augment])
        if strictly:
            feed.stage = device = Device(feed._assemble)
        network.load_state_dict(initial)
        for turn in feed.turns(0, 2):
            sums.append((step(turn, turn.counted, 1e-6), turn.counted))
            feed.loader.stepped()
            if isinstance(task, Segment) and task.gradients is not None:
                task.gradients.update(task.gradients.taken())
        feed.loader.close()
    assert device.assembled == 4
    assert isinstance(sums[0][0], Strict)
    for (ours, counted), (plain, expected) in zip(sums[:2], sums[2:], strict=True):
        torch.testing.assert_close(ours.as_subclass(Tensor), plain, rtol=1e-3, atol=1e-3)
        assert torch.equal(counted.as_subclass(Tensor), expected)
        assert (expected > 0).all()


def test_a_step_of_two_optimisers_asks_the_device_for_nothing(folder: Path) -> None:
    torch.manual_seed(0)
    network, _ = pretraining(("hh", "hv"), True)
    task = Adversarial([0, 1], 8, 0.75, 0, True, stride=4)
    engines = Engine(network), Engine(PatchDiscriminator(2, 4, 2))
    step = AdversarialStep(*engines, task, torch.float32, 1, 0.0, weight=0.5, lr_scale=1.0, begun=0, start=0)
    step._guard = SimpleNamespace(before_steps=lambda *_: torch.zeros(()))  # type: ignore[assignment]
    feed = feed_of(folder, task, torch.float32, AUGMENTS["all"])
    feed.stage = Device(feed._assemble)
    for turn in feed.turns(0, 2):
        sums = step(turn, turn.counted, 1e-4)
        feed.loader.stepped()
    feed.loader.close()
    assert isinstance(sums, Strict)
    assert float(step.tensors()["ratio"].as_subclass(Tensor)) > 0


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x.numpy(),
        lambda x: bool(x.any()),
        lambda x: x.nonzero(),
        lambda x: torch.nonzero(x),
        lambda x: torch.where(x > 0),
        lambda x: x[x > 0],
        lambda x: x.__setitem__(x > 0, 0.0),
        lambda x: x[[0, 1]],
        lambda x: float(x.sum()),
    ],
)
def test_what_asks_is_found_out(ask: Callable[[Tensor], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.strict._OURS", str(Path(__file__)))
    with pytest.raises(AskedError, match=Path(__file__).name):
        ask(strict(torch.arange(3.0)) + 1)
