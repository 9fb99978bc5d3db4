"""ArcticSeg: distributed training of networks that draw sea ice charts.

Importing it imports nothing else: `open_scene`, its one function, is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from arcticseg.ice.scenes.open import open_scene

__all__ = ["open_scene"]


def __getattr__(name: str) -> object:
    """Load what `__all__` names."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from arcticseg.ice.scenes import open as scene_opener

    return scene_opener.open_scene
