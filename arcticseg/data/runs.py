"""Neighbouring channels of one grid, and the memory that a batch is assembled into."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from arcticseg.data.mix import mixed


@dataclass(frozen=True)
class Run:
    """Neighbouring channels of one grid.

    Attributes:
        grid: see `ice.channels.Channel`.
        names: of the channels.
        first: plane of the first of them.
    """

    grid: str
    names: tuple[str, ...]
    first: int

    @property
    def planes(self) -> slice:
        """Where they are in the input."""
        return slice(self.first, self.first + len(self.names))

    def holds(self, plane: int) -> bool:
        """Whether a plane is among them."""
        return self.first <= plane < self.first + len(self.names)


@dataclass(frozen=True)
class Planes:
    """Memory that a batch is assembled into; the attributes are those of `Inputs`."""

    x: Tensor
    data: Tensor
    target: Tensor | None

    def part(self, rows: slice) -> Planes:
        """That of some of the samples."""
        return Planes(self.x[rows], self.data[rows], None if self.target is None else self.target[rows])

    def mix(self, box: Tensor, out: Planes) -> None:
        """Mix the samples into other memory."""
        mixed(self.x, box, out.x)
        mixed(self.data, box, out.data)
        if self.target is not None:
            mixed(self.target, box, out.target)
