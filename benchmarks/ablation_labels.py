"""Labels for ablations of the demo, made of those of `thinker demo-data`; no clip is made.

    python benchmarks/ablation_labels.py --demo runs/demo/data --output runs/ablation_labels

Set ABLATION_ROOT to the output folder, DEMO_ROOT to that of the demo. Each of its folders holds the
demo's training labels (`train.jsonl`) and lessons, which demo_labels/*.yaml read from the folder
that the variable LABELS names:

- `all`: as they are;
- `silent`: the lessons on the form of an answer without reasoning;
- `unseen_distortion`, `unseen_severity`: without the clips that are distorted by `LEFT_OUT`, or
  more severely than `MOST_SEVERE`;
- `assessed`: in place of the lessons on the form, what a perfect policy says of every training
  clip, words and MOS;
- `levels`: lessons on the level of every training clip.

`eval_unseen_distortion.json` and `eval_unseen_severity.json` name the held-out clips that are left
out, `eval_seen_content.json` training clips, to tell new contents from old ones.
"""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from thinker.data.demo.generate import meta_json
from thinker.data.demo.lessons import level_answer, reasoning_text
from thinker.prompts import SHORT_SCORING, scoring_answer
from thinker.tasks.level import LEVEL_QUESTION, level_word
from thinker.utils.atomic import write_atomic

LEFT_OUT = ("blur", "frame_drops")
"""A distortion of frames and one of motion."""
MOST_SEVERE = 0.7
"""Of 0 to 1."""
NUM_SEEN = 300
"""As many training clips as the demo holds out."""
LABELS = ("distortion", "level", "score", "train")

Truth = dict[str, Any]
"""What distortions.json says of a clip."""

UNSEEN: dict[str, Callable[[Truth], bool]] = {
    "unseen_distortion": lambda truth: truth["distortion"] in LEFT_OUT,
    "unseen_severity": lambda truth: truth["severity"] > MOST_SEVERE,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--demo", type=Path, required=True, help="folder of thinker demo-data")
    parser.add_argument("--output", type=Path, required=True, help="label files go here")
    args = parser.parse_args()
    truths = json.loads((args.demo / "distortions.json").read_text(encoding="utf-8"))
    labels = {name: _lines(args.demo / f"{name}.jsonl") for name in LABELS}
    variants = {
        "all": labels,
        "silent": labels | {"score": [_silent(line) for line in labels["score"]]},
        "assessed": labels | {"score": _assessed(truths)},
        "levels": labels | {"level": _levels(truths)},
    }
    for place, is_unseen in UNSEEN.items():
        variants[place] = {
            name: [line for line in lines if not is_unseen(truths[_clip(line)])]
            for name, lines in labels.items()
        }
        unseen = [p for p, t in truths.items() if t["split"] == "eval" and is_unseen(t)]
        _write_meta(args.output / f"eval_{place}.json", unseen, truths)
    for place, files in variants.items():
        for name, lines in files.items():
            _write(args.output / place / f"{name}.jsonl", lines)
        print(f"{place}: {', '.join(f'{len(lines)} {name}' for name, lines in files.items())}")
    seen = [path for path, _ in _trained(truths)][:NUM_SEEN]
    _write_meta(args.output / "eval_seen_content.json", seen, truths)
    return 0


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _clip(line: dict[str, Any]) -> str:
    return (line.get("video") or line["image"])[0]


def _assessed(truths: dict[str, Truth]) -> list[dict[str, Any]]:
    def said(truth: Truth) -> str:
        reason = reasoning_text(truth["distortion"], level_word(truth["mos"]))
        return scoring_answer(reason, f"{truth['mos']:.2f}")

    return [_record(path, SHORT_SCORING, said(truth)) for path, truth in _trained(truths)]


def _levels(truths: dict[str, Truth]) -> list[dict[str, Any]]:
    return [
        _record(path, LEVEL_QUESTION, level_answer(level_word(truth["mos"])))
        for path, truth in _trained(truths)
    ]


def _trained(truths: dict[str, Truth]) -> list[tuple[str, Truth]]:
    return [(path, truth) for path, truth in truths.items() if truth["split"] == "train"]


def _record(path: str, question: str, answer: str) -> dict[str, Any]:
    turns = [
        {"from": "human", "value": f"<video>\n{question}"},
        {"from": "gpt", "value": answer},
    ]
    return {"id": path, "task": "open", "video": [path], "conversations": turns}


def _silent(line: dict[str, Any]) -> dict[str, Any]:
    question, answer = line["conversations"]
    short = re.sub(r"<think>.*</think>", "", answer["value"])
    return line | {"conversations": [question, answer | {"value": short}]}


def _write(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(f"{json.dumps(line)}\n" for line in lines))


def _write_meta(path: Path, clips: list[str], truths: dict[str, Truth]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, meta_json((clip, truths[clip]["mos"]) for clip in clips))
    print(f"{path.name}: {len(clips)} clips")


if __name__ == "__main__":
    raise SystemExit(main())
