"""Writing a checkpoint: each rank its share of the tensors, rank 0 what makes it whole; beside training if it can.

Ranks tell one another by the store that they met at, not by collectives: so a checkpoint can be written by a thread
while the device goes on, and a rank whose disk is full fails the checkpoint for all without stopping any.
"""

from __future__ import annotations

import itertools
import json
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch.distributed as dist
from torch import Tensor

from arcticseg.engine.checksums import checksum_of, remove, seal
from arcticseg.engine.process_group import Ranks, agree, barrier
from arcticseg.engine.progress import beat
from arcticseg.engine.tensor_files import write_tensors
from arcticseg.errors import ArcticSegError, OutputError
from arcticseg.files import make_folder, sync_folder
from arcticseg.system import output_errors

# Seconds between two looks at what the others have told.
_POLL = 0.02
# Seconds for it, where the training ends by an error.
_LAST_CHANCE = 20.0
_SERIAL = itertools.count()


class _Store(Protocol):
    """What torch.distributed's stores and a plain dict for one rank can do."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes: ...

    def check(self, keys: list[str]) -> bool: ...


class _Alone(dict[str, bytes]):
    """The store of a single rank."""

    def set(self, key: str, value: str) -> None:
        self[key] = value.encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self for key in keys)

    def get(self, key: str) -> bytes:  # type: ignore[override]
        return self[key]


@dataclass
class Saver:
    """Writes the checkpoints of a training, one at a time.

    Args:
        beside: write in a thread, after copying the tensors from the device; else before `save` returns.
        done: is called on rank 0 with the folder of each checkpoint, when it is whole.
    """

    ranks: Ranks
    beside: bool
    done: Callable[[Path], None]
    _thread: threading.Thread | None = None
    _error: ArcticSegError | None = None
    _begun: bool = False
    _store: _Store = field(default_factory=_Alone)

    def __post_init__(self) -> None:
        if self.ranks.world_size > 1:
            self._store = dist.PrefixStore("save", dist.distributed_c10d._get_default_store())

    def save(
        self, whole: Path, share: Mapping[str, Tensor], state: Mapping[str, Any], copies: Mapping[str, Path]
    ) -> None:
        """Write a checkpoint to a folder; every rank must call it, after `settle`.

        Args:
            share: this rank's tensors, each as `kept` gave it.
            state: of rank 0, what JSON can hold.
            copies: file of the checkpoint -> file to copy, of rank 0.
        """
        half = whole.with_name(f".{whole.name}.tmp")
        self._prepare(half)
        self._begun = True
        serial = str(next(_SERIAL))

        def write() -> None:
            try:
                self._write(serial, half, whole, share, state, copies)
            except ArcticSegError as error:
                self._error = error

        if self.beside:
            self._thread = threading.Thread(target=write, name="checkpoint", daemon=True)
            self._thread.start()
        else:
            write()

    def kept(self, value: Tensor) -> Tensor:
        """A tensor of the CPU with a value, which stays what it is while it is written."""
        value = value.detach()
        return value.cpu() if value.device.type != "cpu" or not self.beside else value.clone()

    def settle(self) -> ArcticSegError | None:
        """Wait for the checkpoint that is being written; its error where it failed, the same on all ranks, which must
        all call this."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if self._begun:
            self._begun = False
            # No rank leaves, and takes the store with it, before all have read how it went.
            barrier()
        return error

    def abandon(self) -> None:
        """Give the checkpoint that is being written a last chance, without the other ranks' help."""
        if self._thread is not None:
            self._thread.join(_LAST_CHANCE)

    def _prepare(self, half: Path) -> None:
        """Make the folder of a checkpoint; what others of it were left half written is removed."""
        error = None
        if self.ranks.is_main:
            try:
                make_folder(half.parent)
                for path in half.parent.glob(".step-*"):
                    remove(path)
                make_folder(half)
            except ArcticSegError as caught:
                error = caught
        agree(error)

    def _write(
        self,
        serial: str,
        half: Path,
        whole: Path,
        share: Mapping[str, Tensor],
        state: Mapping[str, Any],
        copies: Mapping[str, Path],
    ) -> None:
        """Write this rank's file, and wait until the checkpoint is whole, or has failed.

        Raises:
            OutputError: the same on all ranks.
        """
        told: dict[str, Any] = {"files": {}, "error": ""}
        try:
            with output_errors(half):
                if share:
                    name = f"model-{self.ranks.rank:05d}.safetensors"
                    told["files"][name] = write_tensors(half / name, share)
                for name, source in copies.items() if self.ranks.is_main else ():
                    shutil.copyfile(source, half / name)
                    told["files"][name] = checksum_of(half / name, flush=True)
                sync_folder(half)
        except Exception as error:
            told["error"] = str(error)
        beat("waiting until all ranks have written the checkpoint")
        self._store.set(f"{serial}/{self.ranks.rank}", json.dumps(told))
        if self.ranks.is_main:
            self._store.set(f"{serial}/whole", self._complete(serial, half, whole, state))
        error_text = self._wait(f"{serial}/whole").decode()
        if error_text:
            raise OutputError(error_text)

    def _complete(self, serial: str, half: Path, whole: Path, state: Mapping[str, Any]) -> str:
        """When all ranks have written, make the checkpoint whole; why it failed, or nothing."""
        told = [json.loads(self._wait(f"{serial}/{rank}")) for rank in range(self.ranks.world_size)]
        errors = [of_rank["error"] for of_rank in told if of_rank["error"]]
        try:
            if errors:
                raise OutputError(errors[0])
            files = {name: value for of_rank in told for name, value in of_rank["files"].items()}
            with output_errors(half):
                seal(half, state, files)
                # A damaged checkpoint, before which the training went on.
                remove(whole)
                half.rename(whole)
                sync_folder(whole.parent)
            self.done(whole)
        except Exception as error:
            remove(half)
            return str(error) or type(error).__name__
        return ""

    def _wait(self, key: str) -> bytes:
        while not self._store.check([key]):
            time.sleep(_POLL)
        return self._store.get(key)
