"""The share of a rank in the batch of an optimiser step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """Which samples of each optimiser step are a rank's, and how it divides them into batches.

    Attributes:
        rank, world_size: of the rank, 0 <= rank < world_size.
        global_batch: samples to an optimiser step, over all ranks.
        micro_batch: samples to a forward pass of one rank.

    Raises:
        ValueError: a rank that the world does not have, or a global batch that is not a multiple of
            `world_size * micro_batch`.
    """

    rank: int
    world_size: int
    global_batch: int
    micro_batch: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} is not below world size {self.world_size}")
        if self.micro_batch < 1 or self.global_batch % (self.world_size * self.micro_batch):
            raise ValueError(
                f"global batch size {self.global_batch} is not a multiple of {self.world_size} ranks x micro batches "
                f"of {self.micro_batch}"
            )

    @property
    def accumulation_steps(self) -> int:
        """Micro batches of one rank to an optimiser step."""
        return self.global_batch // (self.world_size * self.micro_batch)

    def places(self, consumed: int) -> range:
        """The places of this rank in the optimiser step that starts when `consumed` samples have been used."""
        size = self.global_batch // self.world_size
        first = consumed + self.rank * size
        return range(first, first + size)
