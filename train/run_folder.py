"""A run's folder: `config.json`, the newest states, `log.jsonl`, `metrics.jsonl`, TensorBoard events.

States are written atomically, and the last few are kept; a run that was killed goes on from the
newest. Only the process that writes has an open folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec
import torch

from depthmask.atomic import only_writer, write_file
from depthmask.errors import InputError, OutputError, UsageError
from depthmask.train.config import TrainingConfig
from depthmask.train.documents import read_document
from depthmask.train.parking import PARKED

CONFIG_FILE = "config.json"
LOG_FILE = "log.jsonl"
METRICS_FILE = "metrics.jsonl"
_STATE = "state-{:08d}.pt"
_STATES = "state-*.pt"

State = dict[str, Any]


class RunFolder:
    """The files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._log: IO[str] | None = None
        self._board: Any = None

    def prepare(self, config: TrainingConfig) -> None:
        """Make the folder, or check that it holds a run of this configuration.

        Raises:
            UsageError: it holds something else, or another process trains in it.
            InputError: its configuration is damaged.
            OutputError: it cannot be written.
        """
        recorded = self.path / CONFIG_FILE
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not recorded.exists():
                self._require_empty()
                document = msgspec.json.format(msgspec.json.encode(config), indent=2)
                write_file(recorded, document + b"\n")
        except FileExistsError as error:
            raise UsageError(f"{self.path} must be a folder, but got a file") from error
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error.strerror}") from error
        with only_writer(self.path, recorded):
            for leftover in self.path.glob(f"{PARKED}*"):  # of a run that was killed
                shutil.rmtree(leftover, ignore_errors=True)
        if read_document(recorded, TrainingConfig) != config:
            raise UsageError(
                f"{self.path} must be a new folder or hold a run of the same configuration, but its"
                f" {CONFIG_FILE} differs. Try another --out"
            )

    def _require_empty(self) -> None:
        # A kill between mkdir and the first file may leave only the temporary one.
        others = [path.name for path in self.path.iterdir() if not path.name.startswith(".config.")]
        if others:
            raise UsageError(
                f"{self.path} must be a new folder or hold a run, but got one with {others[0]} and"
                f" no {CONFIG_FILE}. Try another --out"
            )

    @contextmanager
    def opened(self, step: int) -> Iterator[None]:
        """Open the log, the metrics and the board, forgetting what came after `step`.

        Raises:
            UsageError: another process trains in this folder.
            OutputError: it cannot be written.
        """
        with only_writer(self.path, self.path / CONFIG_FILE), self._opened(step):
            yield

    @contextmanager
    def _opened(self, step: int) -> Iterator[None]:
        with self.writing():
            for name in (LOG_FILE, METRICS_FILE):
                _forget_later_steps(self.path / name, step)
            for leftover in self.path.glob(".state-*"):  # of a run that was killed while it saved
                leftover.unlink()
            self._log = (self.path / LOG_FILE).open("a", buffering=1, encoding="utf-8")
            self._board = summary_writer(self.path, step + 1)
        try:
            yield
        finally:
            with self.writing(), closing(self._board), closing(self._log):
                pass

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Name the folder where a file of it cannot be written."""
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"{self.path} cannot be written: {error.strerror or error}"
            ) from error

    def record(self, step: int, values: dict[str, float]) -> None:
        """One line of the log."""
        assert self._log is not None
        with self.writing():
            self._log.write(json.dumps({"step": step, **values}) + "\n")
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def record_metrics(self, step: int, values: dict[str, Any]) -> None:
        """One line of the metrics."""
        with self.writing():
            with (self.path / METRICS_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
            for name, value in values.items():
                self._board.add_scalar(f"validation/{name}", value, step)

    def states(self) -> list[Path]:
        """The saved states, oldest first."""
        return sorted(self.path.glob(_STATES))

    def save(self, state: State, keep: int) -> None:
        """Add a state, then drop all but the newest `keep`; one is always there.

        Raises:
            OutputError: it cannot be written; the earlier ones are as they were.
        """
        with self.writing():
            write_file(self.path / _STATE.format(state["step"]), lambda file: _save(state, file))
            for old in self.states()[:-keep]:
                old.unlink()

    def newest(self) -> State | None:
        """The newest state; None where nothing was saved yet.

        Raises:
            InputError: it is damaged.
        """
        states = self.states()
        if not states:
            return None
        try:
            state: State = torch.load(states[-1], weights_only=True, map_location="cpu")
            return dict(state)
        except Exception as error:
            rescue = f"Try removing it, to go on from {states[-2].name}" if states[1:] else ""
            raise InputError(
                f"{states[-1]} must be the saved state of this run, but it cannot be loaded"
                f" ({' '.join(str(error).split())[:200]}). {rescue or 'Try another --out'}"
            ) from error


class _KeepsError:
    """A file that remembers why it refused: torch.save hides it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def _save(state: State, file: IO[bytes]) -> None:
    keeper = _KeepsError(file)
    try:
        torch.save(state, keeper)  # type: ignore[arg-type]
    except Exception as error:
        raise keeper.error or error from error


def _forget_later_steps(log: Path, step: int) -> None:
    """Drop what a killed run logged after its last saved state: those steps are taken again."""
    if not log.exists():
        return
    kept = []
    for line in log.read_bytes().splitlines(keepends=True):
        try:
            if json.loads(line)["step"] > step:
                break
        except (ValueError, KeyError, TypeError):  # cut short by the kill
            break
        kept.append(line)
    write_file(log, b"".join(kept))


def summary_writer(folder: Path, first_step: int) -> Any:  # noqa: ANN401  (tensorboard has no types)
    """TensorBoard's, going on at a step."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=first_step)
