"""The scenes of a build that cannot be read, and why; parts of a build tell it to the build itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from arcticseg.errors import ConfigError, OutputError, SceneError
from arcticseg.files import write_text
from shards.workers import LostError

# In the place of a part's tar, where the scene gave none.
_SUFFIX = ".failed"


class Failures:
    """Takes what goes wrong with scenes; under `stop` the first of it ends the build.

    Args:
        on_error: `stop` or `skip`.
        report: is told of each scene that is skipped.
        record: takes a scene that no machine can read, and why.

    Attributes:
        reasons: scene -> why it was skipped.
    """

    def __init__(
        self,
        on_error: str,
        report: Callable[[str], None],
        record: Callable[[Path, str], None] = lambda path, reason: None,
    ) -> None:
        self.reasons: dict[Path, str] = {}
        self._on_error, self._report, self._record = on_error, report, record

    def add(self, path: Path, error: Exception, elsewhere: bool = False) -> None:
        """Take in what went wrong with a scene; raise it where it ends the build.

        Args:
            elsewhere: another machine may do it.
        """
        reason = _scene_error(path, error)
        if self._on_error == "stop" or isinstance(error, (ConfigError, OutputError)):
            raise reason or error
        of_file = isinstance(error, SceneError) or (isinstance(error, LostError) and not error.killed)
        if reason is None:
            # A fault of the program, whose trace `stop` shows; a single scene must not cost the others.
            reason = SceneError(f"{path}: the program failed on it ({error!r}); report this fault")
        self._report(f"skipped: {reason}")
        # The manifest is the same wherever the scenes lie.
        self.reasons[path] = str(reason).replace(str(path.absolute()), path.name).replace(str(path), path.name)
        if of_file and not elsewhere:
            self._record(path, self.reasons[path])

    def take(self, known: Mapping[Path, str]) -> None:
        """Take in the scenes that parts of this build could not read."""
        for path, reason in known.items():
            self._report(f"skipped: {path}, as a part of this build did: {reason}")
        self.reasons.update(known)


def keep(part: Path, reason: str) -> None:
    """Write down, in the place of a part, why there is none.

    Raises:
        OutputError: it cannot be written.
    """
    write_text(part.with_suffix(_SUFFIX), json.dumps(reason) + "\n")


def kept(parts: Iterable[Path]) -> dict[Path, str]:
    """Part that is not there -> why, of those of which that is written down."""
    reasons: dict[Path, str] = {}
    for part in parts:
        path = part.with_suffix(_SUFFIX)
        if path.is_file():
            reasons[part] = str(json.loads(path.read_text(encoding="utf-8")))
    return reasons


def _scene_error(path: Path, error: Exception) -> SceneError | None:
    """What is wrong with a scene; None where the error is of the program or the output."""
    if isinstance(error, SceneError):
        return error
    if isinstance(error, LostError):
        remedy = "lower --workers or --max-memory" if error.killed else "get the file again, or leave it out"
        return SceneError(f"{path}: could not be worked on: {error}; {remedy}")
    if isinstance(error, MemoryError):
        return SceneError(f"{path}: too large for the memory of this machine; use a larger machine")
    return None
