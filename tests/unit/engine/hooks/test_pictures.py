"""Pictures of validation samples: what they show, when, and that a failure ends no training."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
from torch import Tensor

from arcticseg.data.inputs import Inputs
from arcticseg.engine.hooks.hook import Training
from arcticseg.engine.hooks.pictures import Pictures
from arcticseg.errors import ShardError
from arcticseg.models.config import ModelConfig
from arcticseg.models.mae import patchify, removed
from arcticseg.pictures.colours import COLOURS, MASKED
from arcticseg.run.folder import picture_path
from arcticseg.tasks.config import SegmentConfig
from arcticseg.tasks.pretrain import Pretrain
from arcticseg.tasks.segment import make_segment
from tests.tensors import inputs_of
from tests.unit.engine.trainings import ALONE

SIZE, PATCH, SPREAD = 32, 8, 4.0
CHANNELS = ["nersc_sar_primary", "nersc_sar_secondary", "t2m"]


class Samples:
    """Three samples, in batches of two; `error` comes instead."""

    def __init__(self, inputs: list[Inputs], error: Exception | None = None) -> None:
        self.inputs, self.error = inputs, error
        self.asked: list[tuple[int, bool]] = []

    def batches(self, count: int, labels: bool = True) -> Iterator[tuple[Inputs, int]]:
        self.asked.append((count, labels))
        if self.error:
            raise self.error
        yield self.inputs[0], 2
        yield self.inputs[1], 1

    def chosen(self, count: int, labels: bool = True) -> Any:
        return SimpleNamespace(scenes=["S1A_scene_of_a_day"], scene=np.zeros(4, int), factor=np.full(4, 5))


class Tracker:
    def __init__(self) -> None:
        self.pictures: list[tuple[int, str, Path]] = []

    def picture(self, step: int, name: str, path: Path) -> None:
        self.pictures.append((step, name, path))


class Step:
    """A step that only runs a network, and remembers whether it trains."""

    def __init__(self, network: Any) -> None:
        self.network, self.training = network, True

    def forward(self, x: Tensor, *rest: Any) -> Any:
        assert not self.training
        assert not torch.is_grad_enabled()
        return self.network(x, *rest)

    def train(self, mode: bool = True) -> None:
        self.training = mode


def batches(task: Any) -> list[Inputs]:
    torch.manual_seed(0)
    out = []
    for first in (0, 2):
        x = torch.randn(2, 3, SIZE, SIZE)
        data = torch.ones_like(x, dtype=torch.bool)
        data[:, :, :5] = False
        labels = torch.randint(0, 6, (2, 3, SIZE, SIZE), dtype=torch.uint8)
        labels[:, :, :4] = 255
        inputs = inputs_of(x * data, labels, data)
        places = [first, first + 1]
        object.__setattr__(inputs, "place", torch.tensor(places))
        object.__setattr__(inputs, "drawn", task.draw(places, SIZE))
        out.append(inputs)
    return out


def training_of(out: Path, task: Any, network: Any, samples: Any) -> Training:
    metadata = {
        "config": json.dumps({"data": {"channels": CHANNELS}}),
        "statistics": json.dumps({"nersc_sar_primary": [-14.0, SPREAD]}),
        "simulated": "true",
    }
    step = Step(network)
    return Training(out, None, step, task, ALONE, metadata, 0, 9, samples, [Tracker()])  # type: ignore[arg-type,list-item]


def pretraining(out: Path, samples: Any = None) -> Training:
    task = Pretrain([0, 2], PATCH, 0.75, 0, False)

    def network(x: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        return patchify(x[:, [0, 2]], PATCH) + 1, removed(kept, (SIZE // PATCH) ** 2)

    return training_of(out, task, network, samples or Samples(batches(task)))


def shown(hook: Pictures, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is handed over for drawing."""
    drawn: list[Any] = []
    module = sys.modules[Pictures.__module__]
    monkeypatch.setattr(module, "painted_row", lambda channel, texts: drawn.append(channel))
    monkeypatch.setattr(module, "draw_panels", lambda *_: None)
    return drawn


def test_reconstructions_are_in_the_units_of_the_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = Pictures(1, 3)
    channels = shown(hook, monkeypatch)
    training = pretraining(tmp_path)
    hook.on_start(training)
    hook.on_validation(4, {})
    # Two targets of three samples; the fourth does not count.
    assert [channel.name for channel in channels] == ["nersc_sar_primary", "t2m"] * 3
    assert {channel.unit for channel in channels} == {"dB", "K"}
    x = batches(training.task)[0].x
    first = channels[0]
    np.testing.assert_allclose(first.image[5:], x[0, 0, 5:] * SPREAD - 14, rtol=1e-5)
    assert np.isnan(first.image[:5]).all()
    assert np.isnan(first.painted[:5]).all()
    moved = (first.painted - first.image)[5:]
    np.testing.assert_allclose(moved, np.where(first.removed[5:], SPREAD, 0), atol=1e-4)
    assert first.removed.mean() == 0.75


def test_a_pretraining_is_drawn_every_so_many_validations(tmp_path: Path) -> None:
    hook = Pictures(2, 3)
    training = pretraining(tmp_path)
    hook.on_start(training)
    for step in (2, 4, 6):
        hook.on_validation(step, {})
    again = Pictures(2, 3)
    again.load_state(hook.state())
    again.on_start(training)
    again.on_validation(8, {})
    again.on_validation(10, {})
    written = [picture_path(tmp_path, step) for step in (2, 6, 10)]
    assert sorted((tmp_path / "pictures").iterdir()) == written
    assert training.trackers[0].pictures == [  # type: ignore[attr-defined]
        (step, "validation", path) for step, path in zip((2, 6, 10), written, strict=True)
    ]
    # The same samples, the same picture, but for the step that it names.
    assert training.samples.asked == [(3, False)] * 3  # type: ignore[union-attr]
    with Image.open(written[0]) as picture:
        assert picture.info["Description"].startswith("SIMULATED")
        assert (np.asarray(picture.convert("RGB")).reshape(-1, 3) == MASKED).all(1).sum() > 1000
    assert training.step.training  # type: ignore[attr-defined]


def test_a_segmentation_shows_charts_and_predictions(tmp_path: Path) -> None:
    class Head(torch.nn.Module):
        def classes(self, output: Tensor) -> Tensor:
            return output.argmax(1).to(torch.uint8)

    task: Any = make_segment(SegmentConfig(), ModelConfig(), {"SOD": Head()})  # type: ignore[dict-item]
    # All old ice, whatever is seen.
    network = lambda x: {"SOD": torch.eye(6)[5].view(1, 6, 1, 1).expand(len(x), 6, SIZE, SIZE)}  # noqa: E731
    training = training_of(tmp_path, task, network, Samples(batches(task)))
    hook = Pictures(1, 3)
    hook.on_start(training)
    hook.on_validation(1, {})
    with Image.open(picture_path(tmp_path, 1)) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    areas = [(pixels == colour).all(1).sum() for colour in COLOURS["SOD"]]
    # Three panels of 184 x 184 pixels, and a sixth of the labels.
    assert areas[5] > 3 * 180**2
    assert all(0 < area < 3 * 180**2 / 4 for area in areas[:5])


def test_what_fails_is_told_once_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = Pictures(1, 3)
    hook.on_start(pretraining(tmp_path))
    (tmp_path / "pictures").write_text("a file is in the way")
    with pytest.warns(UserWarning, match=r"hook pictures: .*training goes on without pictures"):
        hook.on_validation(1, {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hook.on_validation(2, {})
    broken = Pictures(1, 3)
    broken.on_start(pretraining(tmp_path, Samples([], ShardError("the server is away"))))
    with pytest.warns(UserWarning, match="the server is away"):
        broken.on_validation(1, {})
    odd = Pictures(1, 3)
    odd.on_start(pretraining(tmp_path / "b"))
    monkeypatch.setattr(Pictures, "_rows", lambda *_: 1 / 0)
    with pytest.warns(UserWarning, match="ZeroDivisionError"):
        odd.on_validation(1, {})


def test_without_validation_samples_it_says_so(tmp_path: Path) -> None:
    hook = Pictures(1, 3)
    training = pretraining(tmp_path)
    object.__setattr__(training, "samples", None)
    with pytest.warns(UserWarning, match="no validation samples"):
        hook.on_start(training)
    hook.on_validation(1, {})
    assert not (tmp_path / "pictures").exists()
