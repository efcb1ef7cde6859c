"""What an interrupted training keeps beside its output, and where the same call goes on."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from s3lora.errors import OutputError
from s3lora.lab.data import Example, digest_of

if TYPE_CHECKING:
    from s3lora.io.checkpoint import Checkpoint
    from s3lora.lab.defences.interface import Defence
    from s3lora.lab.settings import Settings

DEFENCE_STATE = "defence.safetensors"
"""In a checkpoint: what a defence must know to go on."""

IDENTITY = "settings.json"
"""In the folder: what a training must share with the one that was interrupted."""

STATE = "trainer_state.json"
"""In a checkpoint: the file that is written last."""

WRITE_ERRORS = (OSError, SafetensorError)
"""What a full disk raises, besides a RuntimeError of torch.save."""


@dataclass(frozen=True, slots=True)
class PartialTraining:
    """The folder `.NAME.training` beside the output NAME, and its last whole checkpoint."""

    folder: Path
    checkpoint: Path | None
    """None: there is nothing to go on from."""
    identity: Mapping[str, Any]
    """Of the training that it belongs to; empty where there is none."""

    @property
    def step(self) -> int | None:
        """After which step the checkpoint was written."""
        return _step_of(self.checkpoint) if self.checkpoint else None

    @property
    def steps(self) -> int | None:
        """How many steps the training was to have."""
        return self.identity.get("steps")

    def is_of(self, identity: Mapping[str, Any]) -> bool:
        """Whether it belongs to a training like this."""
        return _plain(identity) == self.identity

    def refuse_other(self, identity: Mapping[str, Any]) -> None:
        """Refuse to throw the checkpoint of another training away.

        Raises:
            OutputError: saying what differs.
        """
        if self.checkpoint is None or self.is_of(identity):
            return
        raise OutputError(
            f"{self.folder} keeps step {self.step} of {self.steps} of another training: "
            f"{differences(self.identity, _plain(identity))}",
            hint="--restart throws it away; the settings it had go on with it",
        )

    def clear(self, identity: Mapping[str, Any]) -> None:
        """Make the folder anew for a training; what another has left in it is removed.

        Raises:
            OutputError: if it cannot be written.
        """
        try:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            (self.folder / IDENTITY).write_text(json.dumps(_plain(identity)), encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"cannot write {self.folder}: {error.strerror or error}",
                hint="check permissions and free space",
            ) from error

    def now(self) -> PartialTraining:
        """The same folder as it is by now."""
        return _read(self.folder)

    def remove_unless_useful(self) -> None:
        """Remove checkpoints that are not whole, and the folder if there is none that is."""
        whole = set(_whole_checkpoints(self.folder))
        if not whole:
            shutil.rmtree(self.folder, ignore_errors=True)
        for path in self.folder.glob("checkpoint-*"):
            if path not in whole:
                shutil.rmtree(path, ignore_errors=True)

    def going_on(self, identity: Mapping[str, Any] | None = None) -> str:
        """Where the same call goes on, for a hint; `identity` is that of the call, if in doubt."""
        if self.checkpoint is None or not (identity is None or self.is_of(identity)):
            return "no checkpoint is kept: the same call starts anew"
        return f"step {self.step} is kept in {self.folder}: the same call goes on from there"


def partial_training(out: Path) -> PartialTraining:
    """What an earlier call for the output `out` has kept.

    Raises:
        OutputError: if something else has the name of its folder; it would be removed.
    """
    folder = out.with_name(f".{out.name}.training")
    if folder.is_symlink() or (folder.exists() and not _ours(folder)):
        raise OutputError(
            f"{folder} is not what a training keeps", hint="move it, or give another output"
        )
    return _read(folder)


def identity_of(
    settings: Settings,
    model: str,
    rows: Sequence[Example],
    defence: Defence | None = None,
    safety: Sequence[Example] = (),
    base: Checkpoint | None = None,
) -> dict[str, Any]:
    """What must be the same for a training to go on from a checkpoint of another call."""
    identity = {**asdict(settings), "base": model, "rows_digest": digest_of(rows)}
    if defence is None:
        return identity
    return identity | {
        "defence": defence.name,
        "params": dataclasses.asdict(defence),  # type: ignore[call-overload]
        "safety_digest": digest_of(safety) if "safety" in defence.needs else None,
        "before": str(base.folder.resolve()) if base and "base" in defence.needs else None,
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two trainings, such as `seed 7, now 0; rows_digest …`."""
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return "; ".join(f"{key} {before.get(key)}, now {now.get(key)}" for key in keys)


@contextmanager
def writing(
    what: str,
    kept: Callable[[], PartialTraining],
    errors: tuple[type[Exception], ...] = WRITE_ERRORS,
) -> Iterator[None]:
    """Turn a failure to write into an error that says where the same call goes on.

    Args:
        what: What is being written.
        kept: What there is to go on from once the failure has happened.
        errors: What is such a failure.

    Raises:
        OutputError: in place of these errors, and of an OutputError that is raised inside.
    """
    caught: tuple[type[Exception], ...] = (OutputError, *errors)
    try:
        yield
    except caught as error:
        partial = kept()
        message = f"cannot write {what}: {_reason(error, partial.folder.parent)}"
        hint = "check free space and permissions"
        if isinstance(error, OutputError):
            message, hint = str(error), error.hint
        raise OutputError(message, hint=f"{hint}; {partial.going_on()}") from error


def _reason(error: Exception, folder: Path) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    with suppress(OSError):
        if shutil.disk_usage(folder).free < 2**20:  # torch.save does not say that the disk is full
            return "no space left on the device"
    return str(error).partition("\n")[0]


def _ours(folder: Path) -> bool:
    """Whether a folder holds nothing but what a training keeps."""
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError:
        return False
    return not names or IDENTITY in names


def _read(folder: Path) -> PartialTraining:
    checkpoints = _whole_checkpoints(folder)
    try:
        identity = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        identity = None
    if not isinstance(identity, dict):
        return PartialTraining(folder, None, {})
    return PartialTraining(folder, checkpoints[-1] if checkpoints else None, identity)


def _whole_checkpoints(folder: Path) -> list[Path]:
    """Those that were written to their end, in order."""
    found = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdecimal()]
    return sorted(filter(_whole, found), key=_step_of)


def _whole(checkpoint: Path) -> bool:
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    there = (checkpoint / DEFENCE_STATE).is_file()
    return there and isinstance(state, dict) and state.get("global_step") == _step_of(checkpoint)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _plain(identity: Mapping[str, Any]) -> dict[str, Any]:
    """As it is read back: lists in place of tuples."""
    value: dict[str, Any] = json.loads(json.dumps(identity))
    return value
