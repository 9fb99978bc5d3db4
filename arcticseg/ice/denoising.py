"""Whose removal of thermal noise backscatter has seen: a network that learnt from one sees another as other ice.

HV of open water and smooth ice lies near the noise, where the methods differ by decibels between the sub-swaths.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

# Method -> what it is.
METHODS = {
    "nersc": "NERSC's (Park et al. 2018, doi:10.1109/TGRS.2017.2765248), as in AI4Arctic",
    "esa": "ESA's, by the noise vectors of the product",
    "none": "none, the noise is in it",
}


def known(methods: Iterable[object]) -> list[str]:
    """The known methods among values, sorted, each once."""
    return sorted({method for method in methods if isinstance(method, str) and method in METHODS})


def mix(methods: Iterable[object]) -> str | None:
    """A sentence on scenes whose methods differ; None: they do not, as far as it is known.

    Args:
        methods: of each scene; None: not known, which counts as no method.
    """
    numbers = Counter(method for method in methods if isinstance(method, str) and method in METHODS)
    if len(numbers) < 2:
        return None
    told = "; ".join(f"{METHODS[name]}: {numbers[name]} scenes" for name in sorted(numbers))
    return (
        f"thermal noise was removed in different ways ({told}); use scenes of one way, or expect other HV between them"
    )


def differing(method: str | None, trained: Collection[str]) -> str | None:
    """A clause on a scene whose method is not among those that a network learnt from; None: it is, or is not known."""
    if method not in METHODS or not trained or method in trained:
        return None
    told = ", ".join(METHODS[name] for name in sorted(trained))
    return f"its thermal noise removal is {METHODS[method]}, the network learnt from: {told}"
