"""Keys about the weights that an encoder begins with."""

from __future__ import annotations

from collections.abc import Sequence

from arcticseg.errors import need
from arcticseg.ice.channels import GROUPS, expand


def planes_of(names: Sequence[str]) -> tuple[str, ...]:
    """Input planes by name, of names in which a group stands for its channels."""
    members = {group: expand((group,)) for group in GROUPS}
    return tuple(plane for name in names for plane in members.get(name, (name,)))


def check_initial(init_from: str | None, init_channels: Sequence[str], init_adapt: str | None) -> None:
    """Refuse keys that say nothing, or not what they should.

    Raises:
        BadValueError: naming the key.
    """
    need(init_from != "", "init_from", "", "set a run folder or a weights file, or null")
    for key, value in (("init_channels", list(init_channels)), ("init_adapt", init_adapt)):
        need(init_from is not None or not value, key, value, "set init_from, too: it is about its weights")
    planes = planes_of(init_channels)
    good = all(planes) and len(set(planes)) == len(planes)
    need(good, "init_channels", list(init_channels), "name each input plane of the weights once")


def check_untagged(key: str, name: str) -> None:
    """Refuse a name of timm with a tag, which promises certain weights.

    Raises:
        BadValueError: it has one.
    """
    remedy = "nothing is downloaded; for pretrained weights give their file by model.init_from"
    need("." not in name, key, name, f"set {name.partition('.')[0]}: {remedy}")
