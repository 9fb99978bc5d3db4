"""Pictures of a few fixed validation samples while a training goes on."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arcticseg.data.inputs import Inputs
from arcticseg.engine.hooks.hook import Hook, Training
from arcticseg.engine.process_group import gather
from arcticseg.engine.progress import beat
from arcticseg.errors import ArcticSegError
from arcticseg.ice.channels import INPUTS, SAR, expand
from arcticseg.ice.sigrid import CHARTS
from arcticseg.models.mae import removed
from arcticseg.pictures.maps import chart_rgb, sar_rgb
from arcticseg.pictures.panels import PAINTED_COLUMNS, Painted, Row, draw_panels, painted_row
from arcticseg.pictures.sheet import hatched
from arcticseg.run.folder import picture_path
from arcticseg.tasks.pretrain import Pretrain
from arcticseg.tasks.segment import Segment

Float = NDArray[np.floating]
# What a picture shows of a sample: its number, its row.
Numbered = tuple[int, Row]


class Pictures(Hook):
    """Writes `pictures/step-STEP.png` after a validation, and hands it to the trackers.

    Of a pretraining it shows input, masked input and reconstruction of each target, of a segmentation the SAR image
    and label and prediction of each chart. A picture that fails is told once, and training goes on.

    Args:
        every: validations between pictures; there is one after the first.
        samples: validation samples, the same in each picture.
    """

    name = "pictures"

    def __init__(self, every: int, samples: int) -> None:
        self._every, self._samples = every, samples
        self._seen, self._failed = 0, False

    def on_start(self, training: Training) -> None:
        self._training = training
        self._channels = expand(tuple(json.loads(training.metadata["config"])["data"]["channels"]))
        self._own_statistics = json.loads(training.metadata["statistics"])
        if training.samples is None:
            self._fail("there are no validation samples to draw")

    def on_validation(self, step: int, scores: Mapping[str, float | None]) -> None:
        self._seen += 1
        if self._training.samples is None or (self._seen - 1) % self._every:
            return
        beat(f"pictures after step {step}")
        rows: list[Numbered] = []
        error: Exception | None = None
        try:
            for parts in self._outcomes():
                # What a rank cannot prepare must not keep it from the others, which wait for it.
                try:
                    rows += [] if error else self._rows(*parts)
                except Exception as caught:
                    error = caught
        except ArcticSegError as caught:  # the same on all ranks
            self._fail(str(caught))
            return
        gathered = gather((None if error is None else _line(error), rows))
        if self._training.ranks.is_main:
            self._draw(step, gathered)

    def _outcomes(self) -> Iterator[tuple[Inputs, Any, int]]:
        """Inputs of this rank, what the network makes of them, and how many samples count."""
        training = self._training
        assert training.samples is not None
        training.step.train(False)
        try:
            with torch.no_grad():
                for inputs, n in training.samples.batches(self._samples, labels=isinstance(training.task, Segment)):
                    rest = () if inputs.drawn is None else (inputs.drawn,)
                    yield inputs, training.step.forward(inputs.seen, *rest), n
        finally:
            training.step.train()

    def _rows(self, inputs: Inputs, outcome: Any, n: int) -> list[Numbered]:
        task = self._training.task
        if isinstance(task, Pretrain):
            return list(self._painted(task, inputs, outcome[0], n))
        assert isinstance(task, Segment)
        return list(self._charted(task, inputs, outcome, n))

    def _painted(self, task: Pretrain, inputs: Inputs, prediction: Tensor, n: int) -> Iterator[Numbered]:
        """A row for each target of each of the first n samples."""
        assert inputs.drawn is not None
        real, fake, asked = (part[:n].cpu().numpy() for part in task.images(prediction, inputs))
        valid = inputs.valid(task.targets)[:n].cpu().numpy()
        grid = inputs.size // task.patch
        gone = removed(inputs.drawn[:n], grid**2).view(-1, grid, grid).bool().cpu().numpy()
        gone = gone.repeat(task.patch, 1).repeat(task.patch, 2)
        for sample, number in enumerate(inputs.place[:n].tolist()):
            for at, plane in enumerate(task.targets):
                name = self._channels[plane]
                mean, spread = self._statistics(name)
                image = np.where(valid[sample, at], real[sample, at] * spread + mean, np.nan)
                # A removed patch of which too little is known is not asked for.
                there = asked[sample, at] | (valid[sample, at] & ~gone[sample])
                painted = np.where(there, fake[sample, at] * spread + mean, np.nan)
                channel = Painted(name, INPUTS[name].unit, image, gone[sample], painted)
                yield number, painted_row(channel, self._texts(number))

    def _charted(self, task: Segment, inputs: Inputs, outputs: Mapping[str, Tensor], n: int) -> Iterator[Numbered]:
        """A row for each of the first n samples."""
        predicted = {chart: classes[:n].cpu().numpy() for chart, classes in task.classes(outputs).items()}
        labels = inputs.labels[:n].cpu().numpy()
        planes = {pol: self._backscatter(inputs, name, n) for pol, name in SAR.items() if name in self._channels}
        for sample, number in enumerate(inputs.place[:n].tolist()):
            own = {pol: plane[sample].astype(np.float32) for pol, plane in planes.items()}
            panels: list[NDArray[np.uint8] | None] = [sar_rgb(own.get("hh"), own.get("hv")) if own else None]
            for chart in task.charts:
                label = labels[sample, CHARTS.index(chart)]
                panels += [hatched(chart_rgb(chart, label)), chart_rgb(chart, predicted[chart][sample])]
            yield number, Row(self._texts(number), panels)

    def _backscatter(self, inputs: Inputs, name: str, n: int) -> Float:
        """dB, float [n, H, W]; NaN = no data. A network that draws charts has no other mark of that than an exact 0."""
        values = inputs.x[:n, self._channels.index(name)].float().cpu().numpy()
        mean, spread = self._statistics(name)
        return np.where(values == 0, np.nan, values * spread + mean)

    def _statistics(self, name: str) -> tuple[float, float]:
        """Mean and standard deviation by which a channel is normalised."""
        mean, spread = self._own_statistics.get(name, (INPUTS[name].mean, INPUTS[name].std))
        return mean, spread if spread > 0 else 1.0

    def _texts(self, number: int) -> list[str]:
        """What sample it is."""
        samples = self._training.samples
        assert samples is not None
        chosen = samples.chosen(self._samples, labels=isinstance(self._training.task, Segment))
        scene = chosen.scenes[chosen.scene[number]]
        return [f"sample {number}, factor {chosen.factor[number]}", scene[:17], scene[17:32]]

    def _draw(self, step: int, gathered: Sequence[tuple[str | None, list[Numbered]]]) -> None:
        """Draw what the ranks have; only the first does."""
        training = self._training
        errors = [error for error, _ in gathered if error is not None]
        rows = [row for _, row in sorted((pair for _, own in gathered for pair in own), key=lambda pair: pair[0])]
        path = picture_path(training.out, step)
        simulated = bool(json.loads(training.metadata["simulated"]))
        columns = PAINTED_COLUMNS if isinstance(training.task, Pretrain) else self._chart_columns()
        subtitle = "validation samples, the same in each picture"
        try:
            if errors:
                raise ValueError(errors[0])
            draw_panels(path, f"{training.out.name}, step {step}", subtitle, columns, rows, simulated)
            self._hand_over(step, path)
        except Exception as error:
            self._fail(_line(error))

    def _chart_columns(self) -> list[str]:
        task = self._training.task
        assert isinstance(task, Segment)
        return ["SAR", *(text for chart in task.charts for text in (f"{chart}, chart", f"{chart}, network"))]

    def _hand_over(self, step: int, path: Path) -> None:
        for tracker in self._training.trackers:
            tracker.picture(step, "validation", path)

    def _fail(self, why: str) -> None:
        """Tell once that there is no picture."""
        if not self._failed:
            warnings.warn(f"hook pictures: {why}; training goes on without pictures", stacklevel=2)
        self._failed = True

    def state(self) -> dict[str, Any]:
        return {"seen": self._seen}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._seen = int(state["seen"])


def _line(error: Exception) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
