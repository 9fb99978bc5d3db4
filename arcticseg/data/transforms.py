"""Codes to network input: augment, interpolate, dequantise, normalise; batched, on the device of the batch.

Crops, flips and turns are applied to codes and to the coordinates at which coarse grids are interpolated, before
anything has full resolution. So positions and coarse channels are right by construction, and each plane of the input is
written once, in place: on a CPU, memory takes the time.

What decides how much there is to do, such as which planes have holes, is seen on the host before a batch goes to a
device (`Assemble.plan`); nothing here asks the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arcticseg.data import planes as grids
from arcticseg.data.batch import Batch, Draws, Hints
from arcticseg.data.config import DataConfig, groups_of
from arcticseg.data.inputs import Inputs, Polygons, Want
from arcticseg.data.memory import Pool
from arcticseg.data.mix import mixed, parted
from arcticseg.data.pixels import Layer, Pixels
from arcticseg.data.runs import Planes, Run
from arcticseg.data.view import View
from arcticseg.ice.channels import GROUPS, INPUTS
from arcticseg.ice.sigrid import IGNORE_INDEX

# Samples that a CPU thread assembles at once: with fewer, the interpreter takes the time, with more the memory.
_TOGETHER = 2


class Assemble:
    """Batch -> Inputs of some channels.

    Args:
        channels: channel names in input order.
        valid_plane: add a plane that is 1 where some polarisation has data.
        statistics: channel -> (mean, std); other channels use the published statistics.
        want: what is made.
        compiled: batches that have been moved to a device are assembled there by compiled functions, see `pixels`.
        missing_planes: add a plane a channel group that is 1 where the group has no value, or a sample has lost it.

    Attributes:
        runs: the channels by grid.
        missing: the groups that have such a plane.
    """

    def __init__(
        self,
        channels: Sequence[str],
        valid_plane: bool = False,
        statistics: Mapping[str, tuple[float, float]] | None = None,
        want: Want = Want(),
        compiled: bool = False,
        missing_planes: bool = False,
    ) -> None:
        self.channels = tuple(channels)
        self.valid_plane, self.want = valid_plane, want
        self.missing = groups_of(self.channels) if missing_planes else ()
        published = {name: (channel.mean, channel.std) for name, channel in INPUTS.items()}
        self.statistics = published | dict(statistics or {})
        self.runs: list[Run] = []
        for grid, names in groupby(self.channels, key=lambda name: INPUTS[name].grid):
            self.runs.append(Run(grid, tuple(names), sum(len(run.names) for run in self.runs)))
        self._pool = Pool()
        self._threads: ThreadPoolExecutor | None = None
        self._kept: dict[Any, Tensor] = {}
        layers = [Layer(name, *self._linear(name)) for name in self.channels]
        layers += [Layer("", 1.0, 0.0)] * valid_plane
        layers += [Layer("", 1.0, 0.0, group) for group in self.missing]
        self._pixels = Pixels(layers, want.targets) if compiled else None

    @staticmethod
    def of(
        data: DataConfig,
        statistics: Mapping[str, tuple[float, float]] | None = None,
        want: Want = Want(),
        compiled: bool = False,
    ) -> Assemble:
        """What makes the input planes of a config, `DataConfig.planes`."""
        return Assemble(data.names, data.valid_plane, statistics, want, compiled, data.missing_planes)

    @property
    def n_planes(self) -> int:
        """C of the network's input."""
        return len(self.channels) + self.valid_plane + len(self.missing)

    def plan(self, batch: Batch) -> Batch:
        """A batch on the CPU with its hints, ready for a device; it is assembled as a device does that."""
        if self._pixels is None:
            return replace(batch, hints=self._hints(batch))
        return replace(batch, hints=Hints((), torch.empty(0, dtype=torch.int64), _drops(batch)))

    def moved(self, batch: Batch, device: torch.device) -> Batch:
        """A batch from the CPU on a device, ready to be assembled there; nobody waits for the copies."""
        return batch if device.type == "cpu" else self.plan(batch).to(device)

    def _hints(self, batch: Batch) -> Hints:
        """What is seen in a batch on the CPU, or has been seen before it went to a device."""
        if batch.hints is not None:
            return batch.hints
        if batch.clock.device.type != "cpu":
            raise ValueError("the batch has no hints; bring it to the device by Assemble.moved")
        coarse = [run for run in self.runs if run.grid == "2km"]
        holes = [torch.zeros((2, 0), dtype=torch.int64)] * len(coarse)
        if coarse and batch.aux.numel():
            lacking = grids.lacking(batch)
            own = [lacking[:, [batch.coarse.index(name) for name in run.names]] for run in coarse]
            holes = [torch.from_numpy(np.stack(np.nonzero(planes))) for planes in own]
        known = np.isfinite(batch.geo[:, 2:].numpy()).all(axis=(1, 2, 3))
        return Hints(tuple(holes), torch.from_numpy(np.flatnonzero(~known)), _drops(batch))

    def __call__(self, batch: Batch) -> Inputs:
        """The input planes and labels of a batch, augmented as drawn, on the batch's device.

        One that came to another device without hints (see `moved`) is looked at on the CPU first, which takes time.
        """
        device = batch.clock.device
        if device.type != "cpu" and batch.hints is None:
            batch = self.moved(batch.to(torch.device("cpu")), device)
        return self.into(batch, self.empty(len(batch), batch.size, device))

    def empty(self, samples: int, size: int, device: torch.device) -> Planes:
        """Memory for so many samples of size x size pixels."""

        def make(planes: int, dtype: torch.dtype) -> Tensor:
            shape = (samples, planes, size, size)
            if device.type == "cpu":
                return self._pool.empty(shape, dtype)
            return torch.empty(shape, dtype=dtype, device=device)

        targets = self.want.targets
        count = self.n_planes if targets is None else len(targets)
        target = make(count, torch.float32) if targets else None
        return Planes(make(self.n_planes, self.want.dtype), make(count, torch.bool), target)

    def into(self, batch: Batch, planes: Planes) -> Inputs:
        """As a call, into memory from `empty`."""
        if self._pixels is not None and batch.hints is not None:
            labels = self._pixels.write(batch, planes.x, planes.data, planes.target)
        else:
            self._fill_mixed(batch, planes)
            labels = self.labels(batch)
        charts, polygons = parted(batch, labels)
        return Inputs(
            batch.place,
            planes.x,
            planes.data,
            self._dropped(batch),
            charts,
            self.want.targets,
            planes.target,
            batch.drawn,
            batch.seeds,
            *(polygons or ()),
        )

    def _fill_mixed(self, batch: Batch, planes: Planes) -> None:
        """Write all planes."""
        device, mix = batch.clock.device, None if batch.draws is None else batch.draws.mix
        # Samples are mixed from one memory into another.
        raw = planes if mix is None else self.empty(len(batch), batch.size, device)
        if batch.hints is None:
            self._fill_apart(batch, raw)
        else:
            self._fill(batch, batch.hints, raw)
        if mix is not None:
            raw.mix(mix, planes)
        if self.missing and batch.draws is not None and _drops(batch):
            self._say_dropped(batch.draws, planes)

    def _say_dropped(self, draws: Draws, planes: Planes) -> None:
        """Set the planes of missing groups to 1 where a sample loses its group."""
        first = self.n_planes - len(self.missing)
        groups = self._once(draws.drop.device, "missing", lambda: torch.tensor([*map(GROUPS.index, self.missing)]))
        lost = draws.drop.index_select(1, groups)[:, :, None, None]
        planes.x[:, first:].masked_fill_(lost, 1)
        for at, plane in enumerate(self.want.targets or ()):
            if plane >= first and planes.target is not None:
                planes.target[:, at].masked_fill_(lost[:, plane - first], 1)

    def _fill_apart(self, batch: Batch, planes: Planes) -> None:
        """Write all planes on a CPU, each thread a few samples at a time, so that no thread waits before the end.

        Intermediate results fit in the caches, and cost what the samples' own 2 km windows cost, not the largest.
        """
        count = torch.get_num_threads()
        if self._threads is None:
            self._threads = ThreadPoolExecutor(count, "assemble", torch.set_num_threads, (1,))
        inference = torch.is_inference_mode_enabled()
        together = min(_TOGETHER, math.ceil(len(batch) / count))

        def fill(first: int) -> None:
            with torch.inference_mode(inference):
                part = slice(first, first + together)
                samples = _trimmed(batch.part(part))
                self._fill(samples, self._hints(samples), planes.part(part))

        list(self._threads.map(fill, range(0, len(batch), together)))

    def _fill(self, batch: Batch, hints: Hints, planes: Planes) -> None:
        """Write all planes before samples are mixed."""
        view = View.of(batch)
        sar, jitter = grids.picked_sar(batch, view), grids.sar_jitter(batch, view, hints.angles)
        holes = iter(hints.holes)
        there: dict[str, Tensor] = {}
        for run in self.runs:
            x, data = self._memory(run, planes)
            if run.grid == "2km":
                grids.write_coarse(batch, view, run.names, self._coarse_linear(run, x.device), next(holes), x, data)
            elif run.grid == "geo":
                grids.write_geo(batch, view, run.names, self._linear, hints.angles, x, data)
            elif run.grid == "sar":
                grids.write_full(batch, view, sar, jitter, run.names, self._linear, x, data)
            else:
                grids.write_scene(batch, run.names, self._linear, x, data)
            self._hand_over(run, x, data, planes)
            if self.missing and data is not None:
                for name, known in zip(run.names, data.unbind(1), strict=True):
                    group = INPUTS[name].group
                    there[group] = there[group] | known if group in there else known
        flags = [(sar["hh"] | sar["hv"])[:, 0].bool()] if self.valid_plane else []
        for plane, flag in enumerate([*flags, *(~there[group] for group in self.missing)], len(self.channels)):
            self._flag(plane, flag, planes)

    def _flag(self, plane: int, flag: Tensor, planes: Planes) -> None:
        """Write a plane of 0 and 1, which is known everywhere, from bool [B, H, W]."""
        planes.x[:, plane] = flag.view(torch.uint8)
        if self.want.targets is None:
            planes.data[:, plane] = True
        elif planes.target is not None and plane in self.want.targets:
            at = self.want.targets.index(plane)
            planes.data[:, at] = True
            planes.target[:, at] = flag

    def _memory(self, run: Run, planes: Planes) -> tuple[Tensor, Tensor | None]:
        """Where a run is computed, float32 x and data [B, names, H, W]; data is None where nobody needs it."""
        x = planes.x[:, run.planes]
        if x.dtype != torch.float32:
            x = torch.empty(x.shape, dtype=torch.float32, device=x.device)
        if self.want.targets is None:
            return x, planes.data[:, run.planes]
        needed = bool(self.missing) or any(map(run.holds, self.want.targets))
        return x, torch.empty(x.shape, dtype=torch.bool, device=x.device) if needed else None

    def _hand_over(self, run: Run, x: Tensor, data: Tensor | None, planes: Planes) -> None:
        """Round a run's planes to the network's precision, and keep its targets."""
        if self.want.dtype != torch.float32:
            planes.x[:, run.planes] = x
        if self.want.targets is None:
            return
        for at, plane in enumerate(self.want.targets):
            if run.holds(plane):
                assert planes.target is not None
                assert data is not None
                planes.target[:, at] = x[:, plane - run.first]
                planes.data[:, at] = data[:, plane - run.first]

    def valid(self, batch: Batch, planes: Sequence[int]) -> Tensor:
        """Where some planes of a batch will hold data, bool [B, planes, H, W], without what they hold."""
        if self._pixels is not None and batch.hints is not None:
            return self._pixels.valid(batch, planes)
        view, hints = View.of(batch), self._hints(batch)
        sar = grids.picked_sar(batch, view)
        holes = iter(hints.holes)
        there: dict[int, Tensor] = {}
        for run in self.runs:
            own = next(holes) if run.grid == "2km" else None
            wanted = [plane for plane in planes if run.holds(plane)]
            if not wanted:
                continue
            shape = (len(batch), len(run.names), batch.size, batch.size)
            data = torch.empty(shape, dtype=torch.bool, device=batch.clock.device)
            if own is not None:
                grids.coarse_data(batch, view, run.names, own, data)
            elif run.grid == "geo":
                grids.geo_data(batch, view, run.names, hints.angles, data)
            elif run.grid == "sar":
                grids.full_data(batch, view, sar, run.names, data)
            else:
                grids.scene_data(batch, run.names, data)
            there |= {plane: data[:, plane - run.first] for plane in wanted}
        one = torch.ones((), dtype=torch.bool, device=batch.clock.device).expand(len(batch), batch.size, batch.size)
        there |= dict.fromkeys(range(len(self.channels), self.n_planes), one)
        data = torch.stack([there[plane] for plane in planes], dim=1)
        return data if batch.draws is None or batch.draws.mix is None else mixed(data, batch.draws.mix)

    def labels(self, batch: Batch) -> Tensor:
        """The labels of a batch as augmented, uint8 [B, 3, H, W], or with rows of polygons as in `Batch.lab`."""
        if self._pixels is not None and batch.hints is not None:
            return self._pixels.labels(batch)
        labels = View.of(batch).pick(batch.lab, IGNORE_INDEX)
        return labels if batch.draws is None or batch.draws.mix is None else mixed(labels, batch.draws.mix)

    def _linear(self, name: str) -> tuple[float, float]:
        """(a, b) such that a x code + b is the normalised value."""
        offset, scale = grids.code_values(name)
        mean, std = self.statistics[name]
        # A channel that is constant over the training scenes has a standard deviation of 0.
        std = std if std > 0 else 1.0
        return scale / std, (offset - mean) / std

    def _coarse_linear(self, run: Run, device: torch.device) -> Tensor:
        """float32 [names, 2], scale and shift of 2 km channels."""

        def values() -> Tensor:
            return torch.tensor([self._linear(name) for name in run.names])

        return self._once(device, run, values)

    def _dropped(self, batch: Batch) -> Tensor | None:
        """bool [B, C]; planes that say what is there are never dropped. None: no plane is, and nobody wants to see."""
        device, draws = batch.clock.device, batch.draws
        if self.want.targets is not None and (draws is None or not _drops(batch)):
            return None
        if draws is None:
            return torch.zeros(len(batch), self.n_planes, dtype=torch.bool, device=device)
        groups = [GROUPS.index(INPUTS[name].group) for name in self.channels]
        dropped = draws.drop.index_select(1, self._once(device, "groups", lambda: torch.tensor(groups)))
        kept = dropped.new_zeros(len(dropped), self.n_planes - len(groups))
        return torch.cat([dropped, kept], dim=1)

    def _once(self, device: torch.device, name: object, make: Callable[[], Tensor]) -> Tensor:
        """What is made on the CPU, on a device; made and copied once."""
        if (device, name) not in self._kept:
            self._kept[device, name] = make().to(device)
        return self._kept[device, name]


@dataclass(frozen=True)
class Codes:
    """What a task counts of a batch, before anything of it has full resolution; see `inputs.Content`."""

    assemble: Assemble
    batch: Batch

    @property
    def size(self) -> int:
        """H and W."""
        return self.batch.size

    @property
    def place(self) -> Tensor:
        """int64 [B], on the CPU."""
        return self.batch.place

    @property
    def labels(self) -> Tensor:
        """uint8 [B, 3, H, W]; flips and turns, which change no count, are left out where that saves work."""
        return self._parted[0]

    @property
    def polygons(self) -> Polygons | None:
        """Turned as the labels are."""
        return self._parted[1]

    @cached_property
    def _parted(self) -> tuple[Tensor, Polygons | None]:
        draws = self.batch.draws
        plain = draws is None or (draws.crop is None and draws.mix is None and not draws.free)
        return parted(self.batch, self.batch.lab if plain else self.assemble.labels(self.batch))

    @property
    def drawn(self) -> Tensor | None:
        """What the task has drawn for the samples."""
        return self.batch.drawn

    def valid(self, planes: Sequence[int]) -> Tensor:
        """Where some planes will hold data, bool [B, planes, H, W]."""
        return self.assemble.valid(self.batch, planes)


def _drops(batch: Batch) -> bool:
    """Whether any sample loses a channel group: of a batch on the CPU, or one that has hints."""
    if batch.hints is not None:
        return batch.hints.drops
    return batch.draws is not None and bool(batch.draws.drop.numpy().any())


def _trimmed(batch: Batch) -> Batch:
    """A batch on the CPU whose 2 km arrays are cut to the largest window."""
    n = int((torch.isfinite(batch.aux_rows) | torch.isfinite(batch.aux_cols)).sum(dim=1).max())
    rows, cols = (points[:, :n].contiguous() for points in (batch.aux_rows, batch.aux_cols))
    return replace(batch, aux=batch.aux[..., :n, :n], aux_rows=rows, aux_cols=cols)
