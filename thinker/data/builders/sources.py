"""Files of labels → `Facts`, one a medium: MOS, distortions, stalls, depictions.

MOS stand in any form that `thinker.data.read` reads. Distortions are a JSON object by path (the
demo's `distortions.json`), a CSV with a header, or a jsonl, of `path`, `distortion` and perhaps
`severity`: a number from 0 to 1, or a word. Stalls are a jsonl of `path` and `stalls`, [start, end]
in seconds each; depictions one of `path`, `attribute`, `degree`, `time` (a second, or [start,
end]) and `text`. All bad lines of all files are told at once.
"""

import csv
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewards.distortion import NONE, SEVERITY_WORDS, distortion_name, severity_word
from thinker.data.bad_lines import BadLine, BadLinesError
from thinker.data.builders.facts import Depiction, Facts, LevelRule
from thinker.data.paths import MediaRules
from thinker.data.read import LineRules, RecordRules, scan_meta_json, scan_records
from thinker.data.records import (
    BadValueError,
    file_name,
    json_lines,
    load_json,
    mapping,
    member,
    parse_mos,
    prose,
    show,
    text,
)
from thinker.utils.text import csv_records, plain_utf8
from thinker.video.medium import medium


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The files that are given; at least one."""

    mos: tuple[Path, ...] = ()
    """MOS, in any form of the one reader."""
    distortions: Path | None = None
    """Distortion labels."""
    stalls: Path | None = None
    """Stall lists."""
    depictions: Path | None = None
    """Depictions."""
    split: str | None = None
    """Entries that name another `split` are left out; None takes all."""

    def __post_init__(self) -> None:
        if not (self.mos or self.distortions or self.stalls or self.depictions):
            raise ValueError("give at least one of --mos, --distortions, --stalls, --depictions")


Entry = dict[str, Any]


def read_facts(sources: Sources, media: MediaRules, levels: LevelRule | None) -> list[Facts]:
    """What the files say of each medium, in the order in which they name them.

    levels: needed where there are MOS. Raises BadLinesError, or ValueError for a file that is not
    there and for MOS without levels.
    """
    entries: dict[str, Entry] = {}
    bad: list[BadLine] = []

    def take(file: Path, read: Callable[[Entry], Entry], lines: Iterator[tuple[int, Any]]) -> None:
        for line, value in lines:
            try:
                fields = mapping(value, "the entry")
                if sources.split not in (None, fields.get("split", sources.split)):
                    continue
                path = file_name(member(fields, "path"), "path")
                media.locate(path)
                _merge(entries.setdefault(path, {}), read(fields))
            except BadValueError as error:
                bad.append(BadLine(file=file, line=line, reason=str(error)))

    for path, mos in _mos(sources.mos, media, bad):
        entries.setdefault(path, {})["mos"] = mos
    for file, read in (
        (sources.distortions, _distortion),
        (sources.stalls, _stalls),
        (sources.depictions, _depiction),
    ):
        if file is not None:
            take(file, read, _entries(file, bad))
    if bad:
        raise BadLinesError(bad)
    if not entries:
        raise ValueError("the given files say nothing of any medium")
    return _with_levels(entries, media, levels)


def _with_levels(
    entries: dict[str, Entry], media: MediaRules, levels: LevelRule | None
) -> list[Facts]:
    rated = {path: entry.pop("mos") for path, entry in entries.items() if "mos" in entry}
    if rated and levels is None:
        raise ValueError(
            "MOS need the range that they are on: --scale min:max, or --scale set for the lowest "
            "and highest of the set"
        )
    shares = (
        dict(zip(rated, levels.shares(rated.values()), strict=True)) if rated and levels else {}
    )
    found = []
    for path, entry in entries.items():
        share = shares.get(path)
        level = None if share is None or levels is None else levels.word(share)
        kind = medium(media.locate(path)).kind
        found.append(Facts(path=path, kind=kind, share=share, level=level, **entry))
    return found


def _merge(entry: Entry, found: Entry) -> None:
    """Depictions of a medium add up; anything else is said once."""
    for key, value in found.items():
        if key == "depictions":
            entry[key] = (*entry.get(key, ()), *value)
        elif key in entry:
            raise BadValueError(f"the {key} of this path is given twice")
        else:
            entry[key] = value


def _mos(files: tuple[Path, ...], media: MediaRules, bad: list[BadLine]) -> list[tuple[str, float]]:
    """(path below the media root, MOS) of every example."""
    parts = []
    for file in files:
        if _is_meta(file):
            rules = LineRules(media=media, scale=None)
            parts.append(scan_meta_json(file, rules, "mos"))
        else:
            parts.append(scan_records(file, RecordRules(media=media, dataset="mos")))
    bad.extend(line for part in parts for line in part.bad_lines)
    found: dict[str, float] = {}
    for example in (example for part in parts for example in part.examples):
        path = str(example.media[0].path.relative_to(media.root)) if example.media else ""
        if example.mos is None or len(example.media) != 1 or path in found:
            reason = "is rated twice" if path in found else "is no medium with a MOS"
            raise ValueError(f"{', '.join(map(str, files))}: {path or example.id} {reason}")
        found[path] = example.mos
    return list(found.items())


def _is_meta(file: Path) -> bool:
    """Whether it is a meta JSON, an object with annotations; the other forms are records."""
    return file.suffix.lower() == ".json" and _read(file).lstrip().startswith(b"{")


def _read(file: Path) -> bytes:
    try:
        return plain_utf8(file.read_bytes())
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from None


def _entries(file: Path, bad: list[BadLine]) -> Iterator[tuple[int, Any]]:
    """(line, value) of each entry of a JSON object by path, a CSV or a jsonl."""
    data, suffix = _read(file), file.suffix.lower()
    try:
        if suffix == ".json":
            by_path = mapping(load_json(data), "the file")
            yield from ((1, {"path": p, **mapping(v, show(p))}) for p, v in by_path.items())
        elif suffix == ".csv":
            rows = csv_records(io.StringIO(data.decode(), newline=""))
            _, names = next(rows, (0, ()))
            for line, cells in rows:
                if cells:
                    yield line, {k: v for k, v in zip(names, cells, strict=False) if v}
        else:
            for line, raw in enumerate(json_lines(data), start=1):
                try:
                    yield line, load_json(raw)
                except BadValueError as error:
                    bad.append(BadLine(file=file, line=line, reason=str(error)))
    except (BadValueError, UnicodeDecodeError, csv.Error) as error:
        bad.append(BadLine(file=file, line=getattr(error, "line", 1), reason=str(error)))


def _distortion(fields: Entry) -> Entry:
    name = distortion_name(text(member(fields, "distortion"), "distortion"))
    if not name:
        raise BadValueError(f"distortion {show(fields['distortion'])} has no letter")
    given = fields.get("severity")
    if given is None or name == NONE:
        return {"distortion": name, "severity": None}
    if isinstance(given, str) and given.strip().lower() in SEVERITY_WORDS:
        return {"distortion": name, "severity": given.strip().lower()}
    try:
        return {"distortion": name, "severity": severity_word(parse_mos(given))}
    except ValueError:
        raise BadValueError(
            f"severity is {show(given)}, expected a number from 0 to 1 or one of "
            f"{', '.join(SEVERITY_WORDS)}"
        ) from None


def _stalls(fields: Entry) -> Entry:
    given = member(fields, "stalls")
    if not isinstance(given, list):
        raise BadValueError(f"stalls is {show(given)}, expected a list of [start, end] in seconds")
    found: list[tuple[float, float]] = []
    for one in given:
        start, end = _range(one, "a stall")
        if found and start < found[-1][1]:
            raise BadValueError(f"stall {show(one)} begins before the one before it has ended")
        found.append((start, end))
    return {"stalls": tuple(found)}


def _depiction(fields: Entry) -> Entry:
    attribute, degree = (
        "" if fields.get(key) is None else text(fields[key], key).strip()
        for key in ("attribute", "degree")
    )
    said = None if fields.get("text") is None else prose(fields["text"], "text").strip() or None
    if said is None and not (attribute and degree):
        raise BadValueError("expected an attribute with its degree, or a text, or all of them")
    given = fields.get("time")
    if isinstance(given, int | float) and not isinstance(given, bool):
        given = [given, given + 1]
    time = None if given is None else _range(given, "time")
    return {"depictions": (Depiction(attribute=attribute, degree=degree, time=time, text=said),)}


def _range(given: object, what: str) -> tuple[float, float]:
    """Start and end in seconds."""
    if isinstance(given, list) and len(given) == 2:
        numbers = [n for n in given if isinstance(n, int | float) and not isinstance(n, bool)]
        if len(numbers) == 2 and all(map(math.isfinite, numbers)) and 0 <= given[0] < given[1]:
            return float(given[0]), float(given[1])
    raise BadValueError(f"{what} is {show(given)}, expected [start, end] in seconds, start < end")
