"""All runs of the covering array, each compared with one process: run_scripts/test_distributed.sh.

Prints a line a run and writes `OUTPUT/distributed.json`, an object a run: its settings, the
largest difference of a weight between one process and two, the largest move of one, and whether
both wrote the same answers. Runs that are in it already are not done again.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.helpers.policy_factory import small_policy
from tests.helpers.rollout_oracle import ENGINE_SIZE
from tests.helpers.sharding import (
    FACTORS,
    Outcome,
    covering_array,
    largest_difference,
    run_sharded,
    run_supervised,
    weights_of,
)

BOUND = 1e-4
"""Of the difference, as a share of the move."""


def main(output: Path) -> int:
    output.mkdir(parents=True, exist_ok=True)
    record = output / "distributed.json"
    rows = json.loads(record.read_text()) if record.is_file() else []
    done = [row["settings"] for row in rows]
    with tempfile.TemporaryDirectory() as scratch:
        alone: dict[str, Outcome] = {}
        for number, settings in enumerate(covering_array(FACTORS)):
            if settings in done:
                continue
            rows.append(compared(Path(scratch), number, settings, alone))
            record.write_text(json.dumps(rows, indent=1) + "\n")
            print(line(rows[-1]), flush=True)
        if not any("resumed" in row for row in rows):
            rows += resumed(Path(scratch))
            record.write_text(json.dumps(rows, indent=1) + "\n")
        if not any("quantization" in row["settings"] for row in rows):
            four_bit = SETTINGS | {"lora": True, "beta": 0.04, "quantization": "nf4"}
            rows.append(compared(Path(scratch), len(rows), four_bit, alone))
            record.write_text(json.dumps(rows, indent=1) + "\n")
            print(line(rows[-1]), flush=True)
        if not any("supervised" in row for row in rows):
            rows += supervised(Path(scratch))
            record.write_text(json.dumps(rows, indent=1) + "\n")
    failed = sum(not row["equal"] for row in rows)
    print(f"{len(rows)} runs, {failed} failed; {record}")
    return int(failed > 0)


def compared(
    scratch: Path, number: int, settings: dict[str, Any], alone: dict[str, Outcome]
) -> dict[str, Any]:
    """A row of the record. alone: what one process makes, by its settings."""
    start = start_of(scratch, settings["backbone"])
    row: dict[str, Any] = {"settings": settings}
    try:
        key = json.dumps({name: settings[name] for name in settings if name != "sharding"})
        if key not in alone:
            alone[key] = run_sharded(scratch / f"{number}-one", start, settings, num_processes=1)
        one, two = alone[key], run_sharded(scratch / f"{number}-two", start, settings)
    except AssertionError as error:
        return row | {"equal": False, "error": str(error)[-2000:]}
    moved = largest_difference(one.weights, weights_of(start, settings.get("quantization")))
    difference = largest_difference(one.weights, two.weights)
    same_text = all(one.record[name] == two.record[name] for name in ("written", "evaluated"))
    equal = moved > 0 and difference < BOUND * moved and same_text
    row |= {"moved": moved, "difference": difference, "same_text": same_text}
    return row | {"way": two.record["way"], "equal": equal}


def start_of(scratch: Path, backbone: str) -> Path:
    """The policy that runs begin with."""
    start = scratch / backbone
    if not start.is_dir():
        small_policy(backbone, amplify=1.0, size=ENGINE_SIZE).save(start)
    return start


SETTINGS = {name: values[0] for name, values in FACTORS.items()}


def resumed(scratch: Path) -> list[dict[str, Any]]:
    """FSDP2 that goes on after three of six steps with as many processes (bit for bit), and with
    one of two and two of one, compared with six steps of two processes."""
    start = start_of(scratch, SETTINGS["backbone"])
    sharded = SETTINGS | {"sharding": "fsdp2"}
    whole = run_sharded(scratch / "whole", start, sharded | {"steps": 6})
    before = weights_of(start)
    rows = []
    for first, then in ((2, 2), (2, 1), (1, 2)):
        folder = scratch / f"{first}-{then}"
        for steps, number in ((3, first), (6, then)):
            name = "fsdp2-of-one" if number == 1 else "fsdp2"
            end = run_sharded(folder, start, sharded | {"steps": steps, "sharding": name}, number)
        moved = largest_difference(whole.weights, before)
        difference = largest_difference(whole.weights, end.weights)
        equal = difference == 0 if first == then else difference < 1e-3 * moved
        row = {"settings": sharded, "resumed": [first, then], "moved": moved}
        rows.append(row | {"difference": difference, "equal": equal, "same_text": True})
        print(f"resumed by {then} of {first}: {difference / moved:.1e} of the move", flush=True)
    return rows


def supervised(scratch: Path) -> list[dict[str, Any]]:
    """A supervised step, sharded in every way."""
    start = start_of(scratch, SETTINGS["backbone"])
    one = run_supervised(scratch / "supervised-one", start, "ddp", 1)
    moved = largest_difference(one, weights_of(start))
    rows = []
    for sharding in FACTORS["sharding"]:
        two = run_supervised(scratch / f"supervised-{sharding}", start, sharding)
        difference = largest_difference(one, two)
        row = {"settings": {"sharding": sharding}, "supervised": True, "moved": moved}
        equal = moved > 0 and difference < BOUND * moved
        rows.append(row | {"difference": difference, "equal": equal, "same_text": True})
        print(line(rows[-1]), flush=True)
    return rows


def line(row: dict[str, Any]) -> str:
    """What is printed of a run."""
    settings = " ".join(f"{name}={value}" for name, value in row["settings"].items())
    if "error" in row:
        return f"FAILED {settings}: {row['error'].strip().splitlines()[-1]}"
    share = row["difference"] / row["moved"]
    verdict = "equal " if row["equal"] else "FAILED"
    return f"{verdict} {share:.1e} of the move, same answers: {row['same_text']}; {settings}"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
