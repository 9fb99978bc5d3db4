"""`open_scene` by the place that it had in the first versions; `arcticseg.open_scene` is the same function."""

from arcticseg.ice.scenes.open import open_scene

__all__ = ["open_scene"]
