"""Files of labels → `Facts`, one a medium: MOS, distortions, stalls, depictions.

MOS stand in any form that `thinker.data.read` reads. Distortions are a JSON object by path (the
demo's `distortions.json`), a CSV with a header, or a jsonl, of `path`, `distortion` and perhaps
`severity`: a number from 0 to 1, or a word. Stalls are a jsonl of `path` and `stalls`, [start, end]
in seconds each; depictions one of `path`, `attribute`, `degree`, `time` (a second, or [start,
end]) and `text`. Metadata: metadata.py. All bad lines of all files are told at once.
"""

import csv
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path
from typing import Any

from rewards.distortion import NONE, SEVERITY_WORDS, distortion_name, severity_word
from thinker.data.bad_lines import BadLine, BadLinesError
from thinker.data.builders.facts import Depiction, Facts, LevelRule
from thinker.data.builders.metadata import label_bytes, picture_facts, pictures
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
from thinker.utils.text import csv_records
from thinker.video.medium import Medium, medium


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
    metadata: Path | None = None
    """MOS and local distortions of pictures."""
    split: str | None = None
    """Entries that name another `split` are left out; None takes all."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        others = (self.distortions, self.stalls, self.depictions, self.metadata)
        return (*self.mos, *(file for file in others if file is not None))

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError(
                "give at least one of --mos, --distortions, --stalls, --depictions, --metadata"
            )


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
                path = normpath(file_name(member(fields, "path"), "path"))
                found = read(fields)
                if medium(media.locate(path)).kind == "image":
                    _check_timeless(found)
                _merge(entries.setdefault(path, {}), found)
            except BadValueError as error:
                bad.append(BadLine(file=file, line=line, reason=str(error)))

    for path, mos in _mos(sources, media, bad):
        entries.setdefault(path, {})["mos"] = mos
    for file, read in (
        (sources.distortions, _distortion),
        (sources.stalls, _stalls),
        (sources.depictions, _depiction),
    ):
        if file is not None:
            take(file, read, _entries(file, bad))
    if sources.metadata is not None:
        take(sources.metadata, picture_facts, pictures(sources.metadata, bad))
    if bad:
        raise BadLinesError(bad)
    if not entries:
        of_split = "" if sources.split is None else f" of split {sources.split!r}"
        raise ValueError(f"{', '.join(map(str, sources.files))}: no entry{of_split}")
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
    shares = levels.shares(rated) if rated and levels else {}
    found = []
    for path, entry in entries.items():
        share = shares.get(path)
        level = None if share is None or levels is None else levels.word(share)
        kind = medium(media.locate(path)).kind
        found.append(Facts(path=path, kind=kind, share=share, level=level, **entry))
    return found


def _check_timeless(found: Entry) -> None:
    """A picture has no times."""
    if "stalls" in found:
        raise BadValueError("stalls are of videos, this is an image")
    if any(one.time is not None for one in found.get("depictions", ())):
        raise BadValueError("a depiction with a time is of a video, this is an image")


def _merge(entry: Entry, found: Entry) -> None:
    """Depictions of a medium add up; anything else is said once."""
    for key, value in found.items():
        if key == "depictions":
            entry[key] = (*entry.get(key, ()), *value)
        elif key in entry:
            raise BadValueError(f"the {key} of this path is given twice")
        else:
            entry[key] = value


def _mos(sources: Sources, media: MediaRules, bad: list[BadLine]) -> list[tuple[str, float]]:
    """(path below the media root, MOS) of every example of the split."""
    files = sources.mos
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
        if sources.split not in (None, dict(example.tags).get("split", sources.split)):
            continue
        path = str(example.media[0].path.relative_to(media.root)) if example.media else ""
        reason = None
        if example.mos is None or len(example.media) != 1:
            reason = "is no medium with a MOS"
        elif _is_part(example.media[0]):
            reason = "is rated in part (start, end or crop); labels here are of whole files"
        elif path in found:
            reason = "is rated twice"
        if reason is not None:
            raise ValueError(f"{', '.join(map(str, files))}: {path or example.id} {reason}")
        assert example.mos is not None
        found[path] = example.mos
    return list(found.items())


def _is_part(one: Medium) -> bool:
    return (one.start_seconds, one.end_seconds, one.crop) != (None, None, None)


def _is_meta(file: Path) -> bool:
    """Whether it is a meta JSON, an object with annotations; the other forms are records."""
    return file.suffix.lower() == ".json" and label_bytes(file).lstrip().startswith(b"{")


def _entries(file: Path, bad: list[BadLine]) -> Iterator[tuple[int, Any]]:
    """(line, value) of each entry of a JSON object by path, a CSV or a jsonl."""
    data, suffix = label_bytes(file), file.suffix.lower()
    try:
        if suffix == ".json":
            by_path = mapping(load_json(data), "the file")
            for path, value in by_path.items():
                fields = mapping(value, show(path))
                if fields.get("path", path) != path:
                    raise BadValueError(
                        f"entry {show(path)} has a path of its own, {show(fields['path'])}"
                    )
                yield 1, {**fields, "path": path}
        elif suffix == ".csv":
            rows = csv_records(io.StringIO(data.decode(), newline=""))
            _, names = next(rows, (0, ()))
            if len(set(names)) < len(names) or "path" not in names:
                raise BadValueError(
                    f"the header is {', '.join(names) or 'empty'}; expected path and the other "
                    "columns, each once, apart by commas"
                )
            for line, cells in rows:
                if len(cells) > len(names):
                    reason = f"{len(cells)} cells under {len(names)} columns"
                    bad.append(BadLine(file=file, line=line, reason=reason))
                elif cells:
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
