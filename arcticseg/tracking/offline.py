"""Offline wandb runs below a folder: which there are, which went through, which are still written.

RUN/wandb/offline-run-20260401_120000-ab12cd34/run-ab12cd34.wandb          what wandb has written
                                               run-ab12cd34.wandb.synced   went through; wandb's own mark, too
                                               arcticseg-run               the run folder, also under WANDB_DIR
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from arcticseg.run.folder import in_use

_PREFIX, _POINTER = "offline-run-", "arcticseg-run"


@dataclass(frozen=True)
class OfflineRun:
    """What one start of a training has logged offline.

    Attributes:
        folder: `offline-run-TIME-ID`.
        file: what wandb has written there.
    """

    folder: Path
    file: Path

    @property
    def id(self) -> str:
        """That of the wandb run, which several starts of a training share."""
        return self.file.stem.removeprefix("run-")

    @property
    def mark(self) -> Path:
        """The file that says that it went through."""
        return self.file.with_name(f"{self.file.name}.synced")

    @property
    def sent(self) -> bool:
        """Whether it went through, and nothing was written since: our mark holds the bytes that there were."""
        try:
            size = self.mark.read_text(encoding="utf-8").strip()
            return not size.isdecimal() or int(size) == self.file.stat().st_size
        except (OSError, ValueError):
            return False

    @property
    def written(self) -> bool:
        """Whether the training that writes it still works, as far as the lock of its run folder tells."""
        try:
            run = Path((self.folder / _POINTER).read_text(encoding="utf-8").strip())
        except (OSError, ValueError):
            run = self.folder.parent.parent
        return in_use(run)


def offline_runs(folders: Sequence[Path]) -> list[OfflineRun]:
    """All offline runs below some folders, in the order in which they began."""
    runs = {run.folder.resolve(): run for folder in folders for run in _below(folder)}
    # The name begins with the time.
    return sorted(runs.values(), key=lambda run: (run.folder.name, str(run.folder)))


def _below(folder: Path) -> Iterator[OfflineRun]:
    for place, folders, files in os.walk(folder):
        if Path(place).resolve().name.startswith(_PREFIX):
            folders.clear()
            for name in sorted(files):
                if name.endswith(".wandb"):
                    yield OfflineRun(Path(place), Path(place, name))


def point_at(folder: Path, run: Path) -> None:
    """Note beside an offline run which run folder it is of."""
    with contextlib.suppress(OSError):
        (folder / _POINTER).write_text(f"{run.resolve()}\n", encoding="utf-8")
