"""What a network and its loss see of a batch, and what a task needs of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from arcticseg.ice.sigrid import IGNORE_INDEX


@dataclass(frozen=True)
class Want:
    """What is made of a batch; what nobody needs costs time and memory on the device.

    Attributes:
        dtype: of the input planes: what the network computes in.
        targets: planes that are given in float32, too, with where they hold data; None: where all planes hold data.
    """

    dtype: torch.dtype = torch.float32
    targets: tuple[int, ...] | None = None


class Polygons(NamedTuple):
    """What charts say of the polygons of a batch.

    Attributes:
        rows: int32 [B, H, W], row of `shares` of each pixel; the number of rows where nothing is known.
        shares: float32 [N, 13], see `ice.soft`; CutMix moves pixels between samples, not polygons between tables, so
            the rows are those of all samples.
    """

    rows: Tensor
    shares: Tensor


class Content(Protocol):
    """What a task counts: full inputs, or a batch's codes, which are there before any input.

    Attributes:
        place: int64 [B], on the CPU.
        size: H and W.
        labels: uint8 [B, 3, H, W]; 255 = masked. Those of codes may be turned and flipped otherwise than the inputs.
        polygons: as the labels are turned; None: nobody asked for them.
        drawn: what the task has drawn for the samples.
    """

    @property
    def place(self) -> Tensor: ...

    @property
    def size(self) -> int: ...

    @property
    def labels(self) -> Tensor: ...

    @property
    def polygons(self) -> Polygons | None: ...

    @property
    def drawn(self) -> Tensor | None: ...

    def valid(self, planes: Sequence[int]) -> Tensor:
        """Where some planes hold data, bool [B, planes, H, W]; among `Want.targets` where these are set."""
        ...


@dataclass(frozen=True)
class Inputs:
    """What a network and its loss see.

    Attributes:
        place: int64 [B], on the CPU.
        x: [B, C, H, W] of `Want.dtype`, normalised; 0 where there is no data.
        data: bool [B, C, H, W], where x holds data; of `targets` only where a task wants those.
        dropped: bool [B, C], planes that channel dropout takes from the network, but not from its targets; None: none.
        labels: uint8 [B, 3, H, W]; 255 = masked.
        targets: the planes that `target` holds; None: it holds none, and `data` is of all planes.
        target: float32 [B, targets, H, W], what x was rounded from.
        drawn: what the task has drawn for the samples, from (seed, place).
        seeds: int64 [B], of what the network draws for the samples.
        poly, shares: see `Polygons`; None: nobody asked for them.
    """

    place: Tensor
    x: Tensor
    data: Tensor
    dropped: Tensor | None
    labels: Tensor
    targets: tuple[int, ...] | None = None
    target: Tensor | None = None
    drawn: Tensor | None = None
    seeds: Tensor | None = None
    poly: Tensor | None = None
    shares: Tensor | None = None

    @property
    def polygons(self) -> Polygons | None:
        """What charts say of polygons."""
        return None if self.poly is None or self.shares is None else Polygons(self.poly, self.shares)

    @property
    def size(self) -> int:
        """H and W."""
        return self.x.shape[-1]

    @property
    def seen(self) -> Tensor:
        """[B, C, H, W]: x as the network sees it, dropped planes 0."""
        return self.x if self.dropped is None else self.x * ~self.dropped[:, :, None, None]

    def values(self, planes: Sequence[int]) -> Tensor:
        """Some planes in float32 [B, planes, H, W], as they are without channel dropout."""
        if self.target is None:
            return torch.stack([self.x[:, plane] for plane in planes], dim=1)
        assert self.targets == tuple(planes)
        return self.target

    def valid(self, planes: Sequence[int]) -> Tensor:
        """Where some planes hold data, bool [B, planes, H, W]."""
        if self.targets is None:
            return torch.stack([self.data[:, plane] for plane in planes], dim=1)
        assert self.targets == tuple(planes)
        return self.data

    def counting(self, n: int) -> Inputs:
        """The same, of which only the first n samples count: the others hold no data and no labels."""
        if n >= len(self.x):
            return self
        data, labels = self.data.clone(), self.labels.clone()
        data[n:] = False
        labels[n:] = IGNORE_INDEX
        poly = self.poly
        if poly is not None and self.shares is not None:
            poly = poly.clone()
            poly[n:] = len(self.shares)
        return replace(self, data=data, labels=labels, poly=poly)


class MicroBatches(Protocol):
    """The inputs of a step, to be gone through once; each may be used until the next is asked for."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Inputs]: ...
