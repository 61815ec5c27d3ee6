"""Labels for ablations, made of those of `thinker demo-data` or of the film run; no clip is made.

    python benchmarks/ablation_labels.py --demo runs/demo/data --output runs/ablation_labels
    python benchmarks/ablation_labels.py --film runs/film/data --output runs/ablation_film

Set ABLATION_ROOT to the output folder, DEMO_ROOT or FILM_ROOT to that of the clips. Each of its
folders holds training labels and lessons, which demo_labels/*.yaml or film_labels/*.yaml read from
the folder that the variable LABELS names. Of the demo (`train.jsonl` are the labels):

- `all`: as they are;
- `silent`: the lessons on the form of an answer without reasoning;
- `unseen_distortion`, `unseen_severity`: without the clips that are distorted by `LEFT_OUT`, or
  more severely than `MOST_SEVERE`;
- `assessed`: in place of the lessons on the form, what a perfect policy says of every training
  clip, words and MOS;
- `levels`: lessons on the level of every training clip.

`eval_unseen_distortion.json` and `eval_unseen_severity.json` name the held-out clips that are left
out, `eval_seen_content.json` training clips, to tell new contents from old ones.

Of the film (`vmaf_train.jsonl` are the labels): `all` and `unseen_codec`, without the clips that
one of `UNSEEN_ENCODERS` has made; `eval_unseen_codec.json` and `eval_seen_codec.json` name the
held-out clips of these encoders and all others.
"""

import argparse
import json
import re
from collections.abc import Callable, Set
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
UNSEEN_ENCODERS = ("libvpx-vp9", "libsvtav1")
"""Of VP9 and AV1; x264 and x265 remain."""
FILM_LABELS = ("train_words", "train_levels", "train_reasoning", "vmaf_train")

Truth = dict[str, Any]
"""What distortions.json says of a clip."""
Labels = dict[str, list[dict[str, Any]]]
"""Lines by the name of their file."""

UNSEEN: dict[str, Callable[[Truth], bool]] = {
    "unseen_distortion": lambda truth: truth["distortion"] in LEFT_OUT,
    "unseen_severity": lambda truth: truth["severity"] > MOST_SEVERE,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    media = parser.add_mutually_exclusive_group(required=True)
    media.add_argument("--demo", type=Path, help="folder of thinker demo-data")
    media.add_argument("--film", type=Path, help="folder of the film run's data")
    parser.add_argument("--output", type=Path, required=True, help="label files go here")
    args = parser.parse_args()
    if args.demo:
        _demo(args.demo, args.output)
    else:
        _film(args.film / "film", args.output)
    return 0


def _demo(demo: Path, output: Path) -> None:
    truths = json.loads((demo / "distortions.json").read_text(encoding="utf-8"))
    labels = {name: _lines(demo / f"{name}.jsonl") for name in LABELS}
    variants = {
        "all": labels,
        "silent": labels | {"score": [_silent(line) for line in labels["score"]]},
        "assessed": labels | {"score": _assessed(truths)},
        "levels": labels | {"level": _levels(truths)},
    }
    for place, is_unseen in UNSEEN.items():
        left_out = {clip for clip, truth in truths.items() if is_unseen(truth)}
        variants[place] = _without(left_out, labels)
        unseen = [clip for clip in truths if clip in left_out and truths[clip]["split"] == "eval"]
        _write_meta(output / f"eval_{place}.json", unseen, truths)
    _write_variants(output, variants)
    seen = [path for path, _ in _trained(truths)][:NUM_SEEN]
    _write_meta(output / "eval_seen_content.json", seen, truths)


def _film(film: Path, output: Path) -> None:
    encoders = {clip["path"]: clip["encoder"] for clip in _lines(film / "clips.jsonl")}
    left_out = {clip for clip, encoder in encoders.items() if encoder in UNSEEN_ENCODERS}
    labels = {name: _lines(film / f"{name}.jsonl") for name in FILM_LABELS}
    _write_variants(output, {"all": labels, "unseen_codec": _without(left_out, labels)})
    held_out = json.loads((film / "vmaf_eval.json").read_text(encoding="utf-8"))["annotations"]
    for name, is_left_out in (("unseen", True), ("seen", False)):
        chosen = [clip for clip in held_out if (clip["image_id"] in left_out) == is_left_out]
        path = output / f"eval_{name}_codec.json"
        write_atomic(path, json.dumps({"annotations": chosen}, indent=1) + "\n")
        print(f"{path.name}: {len(chosen)} clips")


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _clip(line: dict[str, Any]) -> str:
    media = line.get("video") or line["image"]
    return media if isinstance(media, str) else media[0]


def _without(left_out: Set[str], labels: Labels) -> Labels:
    return {
        name: [line for line in lines if _clip(line) not in left_out]
        for name, lines in labels.items()
    }


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


def _write_variants(output: Path, variants: dict[str, Labels]) -> None:
    for place, files in variants.items():
        (output / place).mkdir(parents=True, exist_ok=True)
        for name, lines in files.items():
            text = "".join(f"{json.dumps(line)}\n" for line in lines)
            write_atomic(output / place / f"{name}.jsonl", text)
        print(f"{place}: {', '.join(f'{len(lines)} {name}' for name, lines in files.items())}")


def _write_meta(path: Path, clips: list[str], truths: dict[str, Truth]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, meta_json((clip, truths[clip]["mos"]) for clip in clips))
    print(f"{path.name}: {len(clips)} clips")


if __name__ == "__main__":
    raise SystemExit(main())
