"""How files, pictures and tables say that scenes are simulated, so that none of them is taken for an observation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The attribute (or tag) of a file; its text begins with the same word.
ATTRIBUTE = "simulated"
# In titles and tables.
MARK = "SIMULATED"
# On the face of a picture or page of one scene, and of several.
SCENE_BANNER, SCENES_BANNER = f"{MARK} SCENE", f"{MARK} SCENES"
# At the beginning of a picture's description.
SCENE_DISCLAIMER, SCENES_DISCLAIMER = f"{SCENE_BANNER}: not an observation. ", f"{SCENES_BANNER}: not observations. "


def statement(text: str) -> str:
    """The attribute's text, which goes on to say what is simulated."""
    return f"{ATTRIBUTE}: {text}"


def is_simulated(attributes: Mapping[str, Any]) -> bool:
    """Whether a file says of itself, by its attributes or tags, that it is simulated."""
    return str(attributes.get(ATTRIBUTE, "")).startswith(ATTRIBUTE)


def marked(text: str, simulated: bool) -> str:
    """The text, with the mark before it where scenes are simulated: `SIMULATED scenes`."""
    return f"{MARK} {text}" if simulated else text
