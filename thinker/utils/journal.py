"""A run's folder: rows that survive `kill -9`, one configuration for good.

A row is one line `<crc32> <json>`, appended as soon as it is known. A kill can only cut the last
line short, a power cut may spoil more; a line whose checksum does not match is dropped, and its
video scored again. A row that replaces one stands further down: until all of its line is there, the
old one counts.
"""

import json
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from thinker.utils.atomic import write_atomic
from thinker.utils.lock import folder_lock

logger = logging.getLogger(__name__)

Row = dict[str, Any]
SHOWN_KEYS, SHOWN_LENGTH = 8, 300  # of an error that lists what differs


def encode_row(index: int, row: Row) -> bytes:
    """One line: checksum, blank, JSON with the row's number in its set."""
    body = json.dumps({"index": index, **row}, ensure_ascii=True, allow_nan=False).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def decode_row(line: bytes) -> tuple[int, Row] | None:
    """(index, row) of a line without its newline, None where the checksum does not match."""
    checksum, _, body = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(body):
        return None
    row = json.loads(body)
    return row.pop("index"), row


def read_rows(path: Path) -> dict[int, Row]:
    """All whole rows by index; none where there is no file. The last row of an index counts."""
    rows, _ = _read(path)
    return rows


def _read(path: Path) -> tuple[dict[int, Row], int]:
    """The whole rows, and the number of lines that are none."""
    data = path.read_bytes() if path.exists() else b""
    rows: dict[int, Row] = {}
    *lines, rest = data.split(b"\n")
    num_bad = 1 if rest else 0
    for line in lines:
        decoded = decode_row(line)
        if decoded is None:
            num_bad += 1
        else:
            index, row = decoded
            rows[index] = row
    return rows, num_bad


class RowJournal:
    """Rows of one shard of one set: those of earlier runs, `append` and `replace`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows, num_bad = _read(path)
        if num_bad:
            logger.warning("%s: %d damaged row(s) dropped, to be scored again", path, num_bad)
            content = b"".join(encode_row(index, row) for index, row in self.rows.items())
            write_atomic(path, content)

    def append(self, rows: Iterable[tuple[int, Row]]) -> None:
        """Add rows that are not there yet; the kernel has them when this returns."""
        self.replace((index, row) for index, row in rows if index not in self.rows)

    def replace(self, rows: Iterable[tuple[int, Row]]) -> None:
        """As `append`, and these rows count from now on where there are others."""
        new = dict(rows)
        with open(self.path, "ab") as file:
            file.write(b"".join(encode_row(index, row) for index, row in new.items()))
        self.rows.update(new)


@contextmanager
def claimed_folder(folder: Path, fingerprint: Row, has_rows: Callable[[], bool]) -> Iterator[None]:
    """A folder that belongs to the configuration of its rows, as `run.json` says; nobody else
    claims it within the block.

    A folder without rows belongs to whoever comes, so that a command that failed can be mended.
    Raises ValueError that names what differs where `has_rows` says there are some. A process of
    several that write to one folder writes its first row within such a block: meanwhile another
    configuration may have come.
    """
    path = folder / "run.json"
    with folder_lock(folder, "claim", wait=True):
        there = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        if there is not None and has_rows():
            require_same(folder, there, fingerprint)
        else:
            write_atomic(path, json.dumps(fingerprint, indent=1) + "\n")
        yield


def check_claimed(folder: Path, known: Row) -> None:
    """As `claimed_folder` where there are rows, for what of the fingerprint is known before
    a model is loaded. Writes nothing."""
    try:
        there = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    keys = known.keys() & there.keys()
    require_same(folder, {key: there[key] for key in keys}, {key: known[key] for key in keys})


def flat(values: Row, prefix: str = "") -> Row:
    """Nested mappings as dotted keys; an empty mapping stays a value."""
    found: Row = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def _shown(settings: Row, key: str) -> str:
    return repr(settings[key]) if key in settings else "not set"


def require_same(folder: Path, there: Row, now: Row) -> None:
    """ValueError that names what differs between the run a folder belongs to and this one."""
    now = json.loads(json.dumps(now))  # tuples as JSON holds them
    there, now = flat(there), flat(now)
    differing = [
        f"{key} was {_shown(there, key)}, is {_shown(now, key)}"
        for key in sorted({*there, *now})
        if (key in there) != (key in now) or there.get(key) != now.get(key)
    ]
    if differing:
        more = f" and {len(differing) - SHOWN_KEYS} more" if len(differing) > SHOWN_KEYS else ""
        raise ValueError(
            f"{folder} holds results of another model or configuration: "
            f"{'; '.join(text[:SHOWN_LENGTH] for text in differing[:SHOWN_KEYS])}{more}. "
            "Go on with the same settings, choose another output folder, or delete this one"
        )
