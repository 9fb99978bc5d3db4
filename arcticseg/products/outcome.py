"""How far a command over many scenes is: those that are done, and those that failed. No torch here."""

from __future__ import annotations

import errno
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from arcticseg.errors import ArcticSegError, OutputError, SceneError

# Reasons for which the files of one scene cannot be written, and those of others can.
_OF_ONE_NAME = {errno.EISDIR, errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG}


@dataclass(frozen=True)
class Failure:
    """A scene that could not be drawn or scored, and why: one line that names it."""

    path: Path
    reason: str


@dataclass
class Outcome:
    """Filled while the scenes are worked on, so that a command that is stopped can say how far it is.

    Attributes:
        total: scenes that were asked for.
        drawn: those that are finished now.
        kept: those that were finished before.
        failed: those that the command goes on without.
        of_more: they are a share of a command's scenes, so it is no error that all of them fail.
    """

    total: int
    drawn: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    of_more: bool = False

    def fail(self, path: Path, error: Exception) -> Failure:
        """Go on without a scene.

        Raises:
            ArcticSegError: it is the only scene, or the error would meet all scenes, as a full disk does.
            Exception: `error`, a fault of the program that met the only scene, or nobody reads what is printed.
        """
        if isinstance(error, BrokenPipeError):
            raise error
        if isinstance(error, OutputError) and getattr(error.__cause__, "errno", None) not in _OF_ONE_NAME:
            raise error
        failure = Failure(path, _reason(path, error))
        if self.total == 1 and not self.of_more:
            if isinstance(error, (ArcticSegError, OSError, MemoryError)) and failure.reason != str(error):
                raise SceneError(failure.reason) from error
            raise error
        self.failed.append(failure)
        return failure

    def need_any(self) -> None:
        """Check that not all scenes failed.

        Raises:
            SceneError: they did.
        """
        if self.failed and not self.drawn and not self.kept and not self.of_more:
            raise SceneError(f"none of {self.total} scenes can be used; the first: {self.failed[0].reason}")

    def __str__(self) -> str:
        return f"{len(self.drawn) + len(self.kept)} of {self.total} scenes are done"


def _reason(path: Path, error: Exception) -> str:
    """One line that names the scene and the remedy."""
    if isinstance(error, ArcticSegError):
        text = " ".join(str(error).split())
        return text if str(path) in text else f"{path}: {text}"
    if isinstance(error, MemoryError):
        return f"{path}: there is not enough memory for it; use a machine with more, or a smaller --batch-size"
    if isinstance(error, OSError):
        return f"{path}: cannot be used: {error.strerror or error}; check that the file can be read, or leave it out"
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(f"{type(error).__name__} {error}".split())
    return (
        f"{path}: {text} ({Path(place.filename).name}, line {place.lineno}), which looks like a fault of the program; "
        "give this scene alone to see the traceback, and report it"
    )
