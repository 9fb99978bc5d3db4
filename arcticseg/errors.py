"""Errors that a person can remove.

Every error that input, configuration or the machine can cause is an `ArcticSegError`: one line that names the file or
key, the value in it, and the remedy. The commands print it and exit with status 2; any other exception is a fault of
the program: the commands say so, keep its traceback in a file, and exit with status 4.
"""

from __future__ import annotations

# Begins the line on stderr by which a sweep reads why its training failed.
ERROR_PREFIX = "arcticseg: error: "


class ArcticSegError(Exception):
    """Base of all errors that the user can remove; the message is one line."""

    # The first rank that met it, where ranks have told each other; None: they have not.
    met_by: int | None = None


class ConfigError(ArcticSegError):
    """A config key, value or combination that cannot work."""


class BadValueError(ConfigError):
    """The value of a key that cannot work; `config.build` puts the section's name in front of the key."""

    def __init__(self, key: str, value: object, remedy: str) -> None:
        super().__init__(f"key '{key}' is {value!r}; {remedy}")
        self.key, self.value, self.remedy = key, value, remedy

    def __reduce__(self) -> tuple[type[BadValueError], tuple[str, object, str]]:
        """Ranks send it to each other."""
        return type(self), (self.key, self.value, self.remedy)


def need(condition: bool, key: str, value: object, remedy: str) -> None:
    """Refuse a value.

    Raises:
        BadValueError: the condition does not hold.
    """
    if not condition:
        raise BadValueError(key, value, remedy)


def heed_interrupt(error: BaseException) -> None:
    """See that Ctrl-C is not taken for a damaged file; whoever catches every error calls this first.

    Within native code Ctrl-C becomes a SystemError, whose cause it is.

    Raises:
        KeyboardInterrupt: it is behind the error.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        cause = cause.__cause__ or cause.__context__


class SceneError(ArcticSegError):
    """A scene or chart file that cannot be read or does not follow its schema."""


class ShardError(ArcticSegError):
    """A shard, index or manifest that is missing, damaged or from another version."""


class OutputError(ArcticSegError):
    """Output that cannot be written: no permission, no space, a file in the way."""


class ReportError(ArcticSegError):
    """An evaluation or a run folder from which no report can be made."""
