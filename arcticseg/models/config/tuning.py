"""Which weights of a network learn, in a config; no torch here."""

from __future__ import annotations

from dataclasses import dataclass

from arcticseg.errors import need

# Of any width or depth: more cannot be meant, and would fill the memory before anything is said.
LARGEST = 1 << 14


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adapters beside linear maps of the encoder, which learn in their place."""

    # Of an adapter's two matrices.
    rank: int = 16
    # What an adapter adds is multiplied by alpha / rank.
    alpha: float = 16.0
    # Ends of the names of the linear maps.
    targets: tuple[str, ...] = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")

    def __post_init__(self) -> None:
        need(0 < self.rank <= LARGEST, "rank", self.rank, f"set 1 to {LARGEST}")
        need(0 < self.alpha <= LARGEST, "alpha", self.alpha, f"set a positive number of at most {LARGEST}")
        good = bool(self.targets) and all(self.targets)
        need(good, "targets", list(self.targets), "name linear maps, such as [attn.qkv, attn.proj]")


def check_frozen(key: str, frozen: str | int) -> None:
    """Refuse what says nothing about which weights of an encoder stay as they are.

    Raises:
        BadValueError: naming the key.
    """
    good = frozen in ("none", "encoder") or (isinstance(frozen, int) and frozen > 0)
    need(good, key, frozen, "set none, encoder, or a number of the encoder's first blocks")
