"""Test-time augmentations by name. No torch here."""

from __future__ import annotations

from collections.abc import Sequence

from arcticseg.errors import ConfigError

# Flips of rows and columns, quarter turns, the scene at the next finer and coarser factor.
NAMES = ("flips", "turns", "scales")


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """The augmentations asked for, each once, in the order of `NAMES`.

    Raises:
        ConfigError: there is none of a name.
    """
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise ConfigError(f"--tta has {unknown[0]!r}; set some of {', '.join(NAMES)}, such as flips,turns")
    return tuple(name for name in NAMES if name in names)


def factors_of(factor: int, names: Sequence[str]) -> tuple[int, ...]:
    """Downsampling factors at which a network sees a scene, its own first."""
    return (factor, *(other for other in (factor - 1, factor + 1) if other > 1)) if "scales" in names else (factor,)
