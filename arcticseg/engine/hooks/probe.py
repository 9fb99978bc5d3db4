"""How much of the charts a linear map can tell from the encoder's features, while a pretraining goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arcticseg.data.inputs import Inputs
from arcticseg.data.order import generators
from arcticseg.engine import linear
from arcticseg.engine.hooks.hook import Hook, Training
from arcticseg.engine.linear import Moments
from arcticseg.engine.process_group import gather, sum_over_ranks
from arcticseg.engine.progress import beat
from arcticseg.errors import ConfigError
from arcticseg.ice.score import weighted_f1
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX, N_CLASSES
from arcticseg.ice.strata import parts

# The scenes are divided into so many parts; each is scored by a map that is fitted on the other.
_PARTS = 2


@dataclass(frozen=True)
class _Points:
    """Some patches of a batch.

    Attributes:
        features: [B, k, D] as the encoder gives them.
        labels: uint8 [B, charts, k]; 255 = masked.
        part: int64 [B], in which part of the scenes they are.
    """

    features: Tensor
    labels: Tensor
    part: Tensor


class Probe(Hook):
    """Gives `probe_CHART`: R2 of SIC by ridge regression, weighted F1 of SOD and FLOE by discriminants, times 100.

    The encoder is frozen and sees whole validation tiles. A point is a patch of its last map, with the class that most
    of the patch's labelled pixels have, if half of its pixels are labelled. Scenes are divided into two halves of whole
    satellite passes; each half is scored by maps that are fitted on the other, both are pooled. Sums add up over ranks,
    so their number changes nothing but roundings.

    Args:
        every: steps between probes; there is one before the first step and one at the end, too.
        samples: of the validation samples with charts.
        patches: of a sample, drawn once for all probes.
        shrinkage: see `engine.linear`.
        charts: that are probed.
    """

    name = "probe"

    def __init__(self, every: int, samples: int, patches: int, shrinkage: float, charts: Sequence[str]) -> None:
        self._every, self._count, self._patches = every, samples, patches
        self._shrinkage, self._charts = shrinkage, tuple(charts)

    def on_start(self, training: Training) -> None:
        self._training = training
        if training.samples is None:
            raise ConfigError(
                "key 'hooks' has a probe, which needs validation scenes with charts; build shards with a split 'val', "
                "set data.fold, or leave the probe out"
            )
        chosen = training.samples.chosen(self._count)
        names = [chosen.scenes[number] for number in np.unique(chosen.scene)]
        halves = parts(names, _PARTS, *training.samples.known(names))
        if not all(halves):
            raise ConfigError(
                f"key 'hooks' has a probe, which fits on some satellite passes and scores others; the validation "
                f"scenes with charts ({len(names)}) are of one pass: build shards with more, or leave the probe out"
            )
        second = set(halves[1])
        of_scene = np.array([name in second for name in chosen.scenes], np.int64)
        self._part = torch.from_numpy(of_scene[chosen.scene])

    def scored(self, step: int) -> Mapping[str, float | None]:
        if step % self._every and step != self._training.last:
            return {}
        beat(f"the probe after step {step}")
        points = self._points()
        scores = {f"probe_{chart}": self._score(points, plane, chart) for plane, chart in enumerate(self._charts)}
        # Machines of several kinds may differ in the last digit; all must agree on what is best.
        told: dict[str, float | None] = gather(scores)[0]
        return told

    def _points(self) -> list[_Points]:
        """The points of this rank's samples."""
        training = self._training
        assert training.samples is not None
        module = training.engine.module
        # Called by itself: an autoencoder would encode the patches that it keeps only, and paint the others.
        encoder = getattr(module, "network", module).encoder
        points = []
        training.step.train(False)
        with torch.no_grad():
            for inputs, n in training.samples.batches(self._count):
                dtype = next(encoder.parameters()).dtype
                points.append(self._picked(encoder(inputs.seen.to(dtype))[-1], inputs.counting(n)))
        training.step.train()
        return points

    def _picked(self, features: Tensor, inputs: Inputs) -> _Points:
        """The points of a batch, of its features [B, D, h, w]."""
        rows, columns = features.shape[-2:]
        cell = inputs.size // rows
        chosen = self._drawn(inputs.place.tolist(), rows * columns).to(features.device)  # [B, k]
        flat = features.flatten(2).transpose(1, 2)  # [B, h w, D]
        picked = flat.gather(1, chosen[..., None].expand(-1, -1, flat.shape[2]))
        cells = inputs.labels.unflatten(3, (columns, cell)).unflatten(2, (rows, cell))  # [B, 3, h, p, w, p]
        cells = cells.transpose(3, 4).flatten(4).flatten(2, 3)  # [B, 3, h w, p p]
        at = chosen[:, None, :, None].expand(-1, len(CHARTS), -1, cell * cell)
        points = cells.gather(2, at)  # [B, 3, k, p p]
        labels = [majority(points[:, CHARTS.index(chart)], N_CLASSES[chart]) for chart in self._charts]
        return _Points(picked, torch.stack(labels, 1), self._part[inputs.place].to(features.device))

    def _drawn(self, numbers: Sequence[int], patches: int) -> Tensor:
        """Which patches of the samples are points, int64 [B, k]; the same in each probe."""
        count = min(self._patches, patches)
        draws = generators("probe", 0, ends=numbers)
        return torch.from_numpy(np.stack([random.permutation(patches)[:count] for random in draws]))

    def _score(self, points: Sequence[_Points], plane: int, chart: str) -> float | None:
        """The score of a chart; None where a part has fewer than two classes."""
        device, classes = self._training.ranks.device, N_CLASSES[chart]
        size = points[0].features.shape[-1]
        by_part = [Moments.zero(classes, size, device) for _ in range(_PARTS)]
        for batch in points:
            for part, moments in enumerate(by_part):
                moments.add(Moments.of(batch.features.flatten(0, 1), _of_part(batch, plane, part), classes))
        for moments in by_part:
            for tensor in moments.tensors:
                sum_over_ranks(tensor)
        if min(moments.present for moments in by_part) < _PARTS:
            return None
        value = self._r2(by_part) if chart == "SIC" else self._f1(by_part, points, plane, classes)
        return None if value is None else round(100 * value, 3)

    def _r2(self, by_part: Sequence[Moments]) -> float:
        own = [moments.cpu() for moments in by_part]
        error = sum(
            linear.squared_error(scored, *linear.ridge(fitted, self._shrinkage))
            for scored, fitted in zip(own, own[::-1], strict=True)
        )
        whole = Moments(*(first + second for first, second in zip(own[0].tensors, own[1].tensors, strict=True)))
        return 1.0 - error / linear.spread(whole)

    def _f1(self, by_part: Sequence[Moments], points: Sequence[_Points], plane: int, classes: int) -> float | None:
        counts = torch.zeros(classes * classes, dtype=torch.int64, device=self._training.ranks.device)
        for part, fitted in enumerate(by_part[::-1]):
            weights, intercepts = linear.discriminants(fitted.cpu(), self._shrinkage)
            weights, intercepts = weights.to(counts.device), intercepts.to(counts.device)
            for batch in points:
                values = batch.features.flatten(0, 1).double() @ weights.T + intercepts
                labels = _of_part(batch, plane, part).long()
                pairs = torch.where(labels < classes, labels * classes + values.argmax(1), classes * classes)
                counts += torch.bincount(pairs, minlength=classes * classes + 1)[:-1]
        matrix: Any = sum_over_ranks(counts).view(classes, classes).cpu().numpy()
        return weighted_f1(matrix)


def _of_part(batch: _Points, plane: int, part: int) -> Tensor:
    """Labels of the points [B k] of a chart, masked where they are not of a part."""
    own = (batch.part == part)[:, None]
    return torch.where(own, batch.labels[:, plane], IGNORE_INDEX).flatten()


def majority(cells: Tensor, classes: int) -> Tensor:
    """The class that most labelled pixels of each cell have, the lower on a tie; 255 where most are masked.

    Args:
        cells: uint8 [..., P], the pixels of each cell.

    Returns:
        uint8 [...].
    """
    counts = torch.stack([(cells == number).sum(-1) for number in range(classes)], -1)
    labelled = 2 * counts.sum(-1) >= cells.shape[-1]
    return torch.where(labelled, counts.argmax(-1), IGNORE_INDEX).to(torch.uint8)
