"""Checkpoints that are whole or absent.

A checkpoint is written aside (`.saving/checkpoint-N`), gets a manifest with the SHA-256 of every
file, is fsynced and then renamed into place; older ones are deleted after that. So whatever moment
a process dies at, the newest checkpoint whose files match its manifest is one to resume from. The
same two steps, aside and rename, write every other result that a restart looks for.
"""

import hashlib
import json
import logging
import os
import re
from pathlib import Path

from thinker.utils.atomic import PICKLE_SUFFIXES, fsync, remove_tree

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"
STAGING = ".saving"
FORMAT = 1
_NAME = re.compile(r"checkpoint-(\d+)")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used or written; the message says which and why."""


def cut_back(path: Path, num_bytes: int) -> None:
    """Shorten a journal to what it held at a checkpoint; one system call, so all or nothing.

    Raises CheckpointError where the journal is shorter than that: lines were lost or deleted.
    """
    size = path.stat().st_size if path.exists() else 0
    if size < num_bytes:
        raise CheckpointError(
            f"{path} holds {size} bytes, but held {num_bytes} when the checkpoint was written: "
            "lines are missing; restore the file, or start over in another output_dir"
        )
    if size > num_bytes:
        os.truncate(path, num_bytes)
        fsync(path)


def journal_size(path: Path) -> int:
    """Bytes of a journal, flushed to disk before they are recorded in a checkpoint."""
    if not path.exists():
        return 0
    fsync(path)
    return path.stat().st_size


# Manifest


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, step: int, num_processes: int) -> None:
    """List every file of the folder with its size and hash."""
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }
    manifest = {"format": FORMAT, "step": step, "num_processes": num_processes, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def check_checkpoint(folder: Path, *, pickles: bool = False) -> dict:
    """The manifest of a checkpoint whose files all match it; CheckpointError otherwise.

    pickles: allow files that DeepSpeed and FSDP pickle.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        files = {
            name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()
        }
        known = manifest["format"] == FORMAT and f"checkpoint-{manifest['step']}" == folder.name
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no {MANIFEST}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error!r}") from error
    if not known:
        raise CheckpointError(f"{path} is not the manifest of this folder in format {FORMAT}")
    present = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {MANIFEST}
    if present != set(files):
        raise CheckpointError(
            f"{folder}: files missing {sorted(set(files) - present)[:3]}, "
            f"files not in the manifest {sorted(present - set(files))[:3]}"
        )
    for name, (size, digest) in files.items():
        if not pickles and Path(name).suffix in PICKLE_SUFFIXES:
            raise CheckpointError(f"{folder / name} is a pickle by its name; none is loaded")
        _check_file(folder / name, size, digest)
    return manifest


def _check_file(path: Path, size: int, digest: str) -> None:
    if path.is_symlink():
        raise CheckpointError(f"{path} is a link; a checkpoint holds its own files")
    actual = path.stat().st_size
    if actual != size:
        raise CheckpointError(f"{path} has {actual} bytes, expected {size}: truncated or changed")
    if sha256(path) != digest:
        raise CheckpointError(f"{path} was changed: its SHA-256 is not that of the manifest")


# Checkpoints of a run


def checkpoints(output_dir: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every checkpoint, valid or not, oldest first."""
    found = [(_NAME.fullmatch(path.name), path) for path in output_dir.glob("checkpoint-*")]
    return sorted((int(match[1]), path) for match, path in found if match and path.is_dir())


def newest_valid(output_dir: Path, *, pickles: bool = False) -> tuple[Path | None, list[str]]:
    """The checkpoint to resume from, None without one, and why newer ones were passed over."""
    reasons: list[str] = []
    for _, folder in reversed(checkpoints(output_dir)):
        try:
            check_checkpoint(folder, pickles=pickles)
        except CheckpointError as error:
            reasons.append(str(error))
            continue
        return folder, reasons
    return None, reasons


def rotate(output_dir: Path, step: int, limit: int | None) -> None:
    """Keep the `limit` newest checkpoints up to `step`, the one just written.

    Later ones were passed over as invalid when the run resumed; they stay for inspection until the
    run reaches and replaces them.
    """
    if not limit:
        return
    past = [folder for number, folder in checkpoints(output_dir) if number <= step]
    for folder in past[:-limit]:
        # renamed first: a half deleted checkpoint must not look like one
        doomed = output_dir / STAGING / folder.name
        os.rename(folder, doomed)
        remove_tree(doomed)
