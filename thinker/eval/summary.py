"""What an evaluation leaves behind: `<key>.csv` for each set, `summary.json` and `table.txt`.

`load_summary` reads the figures back for reports and comparisons, `rows.load_rows` the rows.
"""

import json
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from thinker.eval.judge import set_report
from thinker.eval.metrics import ScoreReport, format_answers, format_table, summarise
from thinker.eval.perturbed import format_time, time_report
from thinker.eval.rows import write_rows
from thinker.eval.sets import LoadedSet
from thinker.utils.atomic import write_atomic
from thinker.utils.journal import Row
from thinker.utils.json_file import read_json_object
from thinker.utils.names import path_text, printable

PACKAGES = ("vqa-thinker", "torch", "transformers", "av", "numpy")
"""Their versions are recorded beside results; another version is no other configuration."""


def write_results(
    output_dir: Path, sets: Sequence[tuple[LoadedSet, Sequence[Row]]], fingerprint: Row
) -> str:
    """Write every file, of each set from a row for each of its examples; returns the table."""
    scores, answers, entries, of_time = [], [], {}, {}
    by_key = {one.key: (one, rows) for one, rows in sets}
    for one, rows in sets:
        statuses = write_rows(output_dir / f"{one.key}.csv", one, rows)
        if one.perturbed:  # its labels are those of the true videos, so it has no other figures
            of_time[one.true_key] = time_report(one, rows, *by_key[one.true_key])
            continue
        report = set_report(one.task, one.mos_scale, one.examples, rows, len(statuses))
        if isinstance(report, ScoreReport):
            scores.append((one.name, one.domain, report))
        else:
            answers.append((one.name, one.task, report))
        entries[one.key] = {
            "name": one.name,
            "task": one.task,
            "domain": one.domain,
            "mos_scale": asdict(one.mos_scale) if one.task == "score" and one.mos_scale else None,
            "label_name": one.label_name,
            "media_root": path_text(one.media_root),
            "statuses": dict(Counter(statuses)),
            "interval_coverage": _interval_coverage(one, rows),
            "report": asdict(report),
        }
    summary = summarise(scores) if scores else None
    tables = [format_table(summary)] if summary else []
    tables += [format_answers(answers)] if answers else []
    tables += [format_time(by_key[key][0].name, report) for key, report in of_time.items()]
    table = "\n\n".join([*tables, format_statuses(entries)])
    values = {
        "sets": entries,
        "perturbed": {key: asdict(report) for key, report in of_time.items()},
        "averages": [asdict(average) for average in summary.averages] if summary else [],
        "configuration": fingerprint,
        "versions": versions(),
    }
    write_atomic(output_dir / "summary.json", json.dumps(values, indent=1))
    write_atomic(output_dir / "table.txt", f"{table}\n")
    return table


def _interval_coverage(one: LoadedSet, rows: Sequence[Row]) -> float | None:
    """Share of the targets that lie in the calibrated intervals of their scores; None where there
    are none."""
    held = [
        row["interval"][0] <= example.target <= row["interval"][1]
        for example, row in zip(one.examples, rows, strict=True)
        if row.get("interval") is not None and example.target is not None
    ]
    return sum(held) / len(held) if held else None


def versions() -> dict[str, str]:
    """The version of each of `PACKAGES` and of Python."""
    return {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}


def format_statuses(entries: dict[str, Any]) -> str:
    """One line a set. Example: `demo: 300 videos: 298 ok, 2 missing`."""
    return "\n".join(
        f"{entry['name']}: {sum(entry['statuses'].values())} {_counted(entry)}: "
        + ", ".join(f"{count} {status}" for status, count in sorted(entry["statuses"].items()))
        + _told(entry.get("interval_coverage"))
        for entry in entries.values()
    )


def _told(coverage: float | None) -> str:
    return "" if coverage is None else f"; intervals hold {100 * coverage:.1f} % of the MOS"


def _counted(entry: dict[str, Any]) -> str:
    return "videos" if entry["task"] == "score" else "questions"


def load_summary(folder: Path) -> dict[str, Any]:
    """`summary.json` of a finished evaluation. Raises ValueError where there is none, and for one
    whose sets are not as `write_results` writes them."""
    path = folder / "summary.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no summary.json; expected the folder of a finished eval")
    summary = read_json_object(path)
    sets = summary.get("sets")
    if not isinstance(sets, dict):
        raise ValueError(f"{path_text(path)}: sets is {sets!r:.80}, expected an object of sets")
    for key, entry in sets.items():
        for name, kind in (("name", str), ("task", str), ("report", dict)):
            if not (isinstance(entry, dict) and isinstance(entry.get(name), kind)):
                raise ValueError(
                    f"{path_text(path)}: sets.{printable(key)} has no {name}; expected what "
                    "thinker eval wrote"
                )
    return summary
