"""What a run that goes on changes of what it learns by, when asked by name, and how that is remembered.

A command that is started again without the change means the run as it is now: so a supervisor's command stays right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from arcticseg import config
from arcticseg.errors import ConfigError
from arcticseg.run.config import RunConfig
from arcticseg.run.folder import differences, may_change

# Keys, with all keys below them, that `--change` may name: length, rates, batch size.
_NAMED = ("steps", "epochs", "optim", "engine.global_batch_size", "engine.micro_batch_size", "engine.max_skipped")
_UNNAMED = ("optim.name",)
# Key of a run's metadata under which its changes stand, as JSON.
CHANGES = "changes"


@dataclass(frozen=True)
class Change:
    """A key that has another value since a step."""

    step: int
    key: str
    before: Any
    now: Any

    @property
    def told(self) -> dict[str, Any]:
        """What is told of it when it is made."""
        return {"key": self.key, "before": self.before, "now": self.now}


def check_named(keys: Sequence[str]) -> None:
    """See that `--change` may name keys.

    Raises:
        ConfigError: it may not.
    """
    for key in keys:
        if key in _UNNAMED or not any(key == name or key.startswith(f"{name}.") for name in _NAMED):
            raise ConfigError(
                f"--change {key}: only {', '.join(_NAMED)} may change in a run; set another 'out' for other training"
            )


def gone_on(
    before: RunConfig, asked: RunConfig, known: Sequence[Change], named: Sequence[str], step: int
) -> list[Change]:
    """All changes of a run that goes on.

    Args:
        before: config of the run so far.
        asked: config of the command; where it has what the run had before a change, it means what the run has now.
        known: changes of the run so far.
        named: keys that the command wants to change.
        step: that the run is at.

    Raises:
        ConfigError: they differ in a key that may not change, or was not named.
    """
    meant = applied(asked, [change for change in known if change.key not in named and _has(asked, change)])
    changes = list(known)
    for key, old, new in differences(before, meant):
        if key in named or (may_change(key) and any(change.key == key for change in known)):
            changes.append(Change(step, key, old, new))
        elif not may_change(key):
            told = "" if not _may_be_named(key) else f", or give --change {key}={new!r}"
            raise ConfigError(
                f"key '{key}' is {new!r}; the run in {asked.out} has {old!r}: set that, or another 'out'{told}"
            )
    return changes


def applied(cfg: RunConfig, changes: Sequence[Change]) -> RunConfig:
    """A config with changes made."""
    keys = config.to_dict(cfg)
    for change in changes:
        *sections, last = change.key.split(".")
        section = keys
        for part in sections:
            section = section[part]
        section[last] = change.now
    return config.build(RunConfig, keys)


def _has(cfg: RunConfig, change: Change) -> bool:
    """Whether a config has what a change was made from."""
    value: Any = config.to_dict(cfg)
    for part in change.key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return bool(value == change.before)


def _may_be_named(key: str) -> bool:
    try:
        check_named([key])
    except ConfigError:
        return False
    return True


def as_json(changes: Sequence[Change]) -> list[dict[str, Any]]:
    """What JSON keeps of changes."""
    return [asdict(change) for change in changes]


def from_json(values: Sequence[dict[str, Any]]) -> list[Change]:
    """The changes that `as_json` gave."""
    return [Change(**value) for value in values]
