"""Samples that are damaged on a second reading, too: which, why, and how many a run may have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from arcticseg.errors import ShardError


@dataclass(frozen=True)
class Damage:
    """A damaged sample: its number in the selection, its shard's address, its first byte, and what is wrong."""

    number: int
    shard: str
    offset: int
    reason: str

    def __str__(self) -> str:
        return f"{self.shard}: sample at byte {self.offset} is damaged ({self.reason})"


class DamagedSample(ShardError):  # noqa: N818  it is a sample
    """A sample whose bytes, read twice, are not those of the index."""

    def __init__(self, damage: Damage) -> None:
        super().__init__(f"{damage}; restore the shard; `arcticseg shards check` lists all damage")
        self.damage = damage

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.damage,)


class Quarantine:
    """The damaged samples that all ranks have agreed on; batches are a function of the order and of this set.

    Args:
        limit: number of samples above which a run stops.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.damages: dict[int, Damage] = {}

    def __contains__(self, number: object) -> bool:
        return number in self.damages

    def __iter__(self) -> Any:
        return iter(self.damages)

    def __len__(self) -> int:
        return len(self.damages)

    def add(self, damages: Iterable[Damage]) -> list[Damage]:
        """Add the damages of all ranks, the same on each rank; return what is new, in the order of the samples.

        Raises:
            ShardError: the quarantine now holds more than the limit.
        """
        new = {damage.number: damage for damage in damages if damage.number not in self.damages}
        self.damages |= dict(sorted(new.items()))
        if len(self) > self.limit:
            last = self.damages[max(new)]
            raise ShardError(
                f"{len(self)} samples are damaged, more than data.max_damaged ({self.limit}), such as {last}; restore "
                "the shards (`arcticseg shards check` lists all damage) or raise data.max_damaged, and --resume"
            )
        return [new[number] for number in sorted(new)]

    def state(self) -> list[dict[str, Any]]:
        """What a checkpoint keeps."""
        return [asdict(damage) for damage in self.damages.values()]

    def restore(self, state: Iterable[Mapping[str, Any]]) -> None:
        """Take what a checkpoint kept."""
        self.damages = {damage.number: damage for damage in (Damage(**item) for item in state)}
