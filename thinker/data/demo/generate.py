"""The embedded demo set: generated video files with a known distortion and a known MOS.

In: a `SyntheticConfig`. Out: a folder of H.264 files (`videos/`) with labels in the forms that real
data sets have:
- scores: `train.jsonl` (training jsonl), `eval.json`, `eval_motion.json` (meta JSON);
- LLaVA-style records (lessons.py): `distortion.jsonl`, `level.jsonl`, `score.jsonl` and
  `choice_lessons.jsonl` to imitate, `choice.jsonl` to be rewarded for, and `choice_eval.jsonl`;
- `texts.txt`, all that the first three can say, for a tokenizer;
- `distortions.json`, the truth behind the labels, by path:
  `{"content", "split", "distortion", "kind", "severity", "true_mos", "mos"}`.

`plan.py` says what the set holds and by which rule its MOS follow, `render.py` makes the clips.
"""

import dataclasses
import functools
import hashlib
import json
import multiprocessing
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thinker import prompts
from thinker.data.demo.lessons import (
    choice_lessons,
    choice_records,
    distortion_records,
    lesson_texts,
    quality_records,
)
from thinker.data.demo.plan import DISTORTIONS, ClipPlan, SyntheticConfig, plan_demo_set
from thinker.data.demo.render import encode, render_clip
from thinker.data.demo.scenes import Scene
from thinker.utils.atomic import write_atomic

# Part of the manifest's hash: raise it with any change to labels or pixels, scenes included.
GENERATOR_VERSION = 10

DATASET = "demo"

RECORDS = ("distortion", "level", "score", "choice_lessons", "choice", "choice_eval")


@dataclass(frozen=True, kw_only=True)
class DemoSet:
    """Where the files of a generated set lie."""

    root: Path
    """The video root: paths in the label files are relative to it."""
    train_jsonl: Path
    """Training labels."""
    eval_json: Path
    """Labels of the held-out clips."""
    eval_motion_json: Path
    """Those of `eval_json` with a motion distortion."""
    distortions_json: Path
    """The truth behind the labels, by path."""
    records: dict[str, Path]
    """Files of records, by the names in `RECORDS`."""
    texts: Path
    """A text a line."""
    num_train: int
    """Training clips."""
    num_eval: int
    """Held-out clips."""


def generate_demo_set(folder: Path | str, config: SyntheticConfig, num_workers: int = 2) -> DemoSet:
    """Write the set into `folder`, or reuse or complete what is there; returns where things lie.

    Labels and decoded frames depend on `config` only, not on `num_workers`. Every file is renamed
    into place, so an existing file is a whole one. `manifest.json` holds the config the folder
    belongs to and, once the set is complete, each video's size: a video that is missing or has
    another size is rendered again. A set of another config or generator version is replaced.
    One process at a time.

    Raises `ValueError` for a folder with files but without a manifest: those are not ours.
    """
    if num_workers < 1:
        raise ValueError(f"num_workers is {num_workers}, expected at least 1")
    folder = Path(folder).absolute()
    plans = plan_demo_set(config)
    demo = DemoSet(
        root=folder / "videos",
        train_jsonl=folder / "train.jsonl",
        eval_json=folder / "eval.json",
        eval_motion_json=folder / "eval_motion.json",
        distortions_json=folder / "distortions.json",
        records={name: folder / f"{name}.jsonl" for name in RECORDS},
        texts=folder / "texts.txt",
        num_train=sum(plan.split == "train" for plan in plans),
        num_eval=sum(plan.split == "eval" for plan in plans),
    )
    manifest = _claim_folder(folder, config)
    missing = _missing_clips(demo.root, plans, manifest["num_bytes"])
    _render(missing, demo.root, config, num_workers)
    for path, text in _label_files(demo, plans, config.seed).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_atomic(path, text)
    if missing or not manifest["num_bytes"]:
        num_bytes = {plan.path: (demo.root / plan.path).stat().st_size for plan in plans}
        write_atomic(folder / "manifest.json", json.dumps(manifest | {"num_bytes": num_bytes}))
    return demo


def _claim_folder(folder: Path, config: SyntheticConfig) -> dict[str, Any]:
    """This set's manifest in `folder`; what another set left there is removed first."""
    identity = {"generator_version": GENERATOR_VERSION, "config": dataclasses.asdict(config)}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    path = folder / "manifest.json"
    if path.is_file():
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest.get("sha256") == digest:
            return manifest
        if "generator_version" not in manifest:
            raise ValueError(f"{path} is not a demo set's manifest; choose an empty folder")
    elif folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds files but no demo set's manifest; choose an empty folder")
    for video in (folder / "videos").glob("*/*.mp4"):
        video.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {"sha256": digest, **identity, "num_bytes": {}}
    write_atomic(path, json.dumps(manifest))
    return manifest


def _missing_clips(root: Path, plans: list[ClipPlan], num_bytes: dict[str, int]) -> list[ClipPlan]:
    """Clips without a file, or with one of another size than when the set was complete."""
    missing = []
    for plan in plans:
        path = root / plan.path
        size = path.stat().st_size if path.is_file() else None
        if size is None or size != num_bytes.get(plan.path, size):
            missing.append(plan)
    return missing


def _render(plans: list[ClipPlan], root: Path, config: SyntheticConfig, num_workers: int) -> None:
    for leftover in root.glob("*/.*.tmp"):  # of a run that was killed
        leftover.unlink()
    contents: dict[str, list[ClipPlan]] = {}
    for plan in plans:
        contents.setdefault(plan.content, []).append(plan)
    render = functools.partial(_render_content, root=root, config=config)
    if num_workers == 1 or len(contents) < 2:
        for clips in contents.values():
            render(clips)
        return
    # spawn: the parent may run torch's threads, whose locks a fork would copy as they happen to be.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        for _ in pool.map(render, contents.values(), chunksize=4):
            pass  # raises what a worker raised


def _render_content(plans: list[ClipPlan], *, root: Path, config: SyntheticConfig) -> None:
    scene = Scene(plans[0].scene_seed, config.size_px)
    (root / plans[0].content).mkdir(parents=True, exist_ok=True)
    for plan in plans:
        rng = np.random.default_rng(plan.clip_seed)
        frames, qp = render_clip(scene, plan.distortion, plan.severity, config.num_frames, rng)
        # Blocks that are copied along the motion would hide their edges.
        blocky = plan.distortion == "blocking"
        encode(frames, root / plan.path, fps=config.fps, qp=qp, intra_only=blocky)


def _label_files(demo: DemoSet, plans: list[ClipPlan], seed: int) -> dict[Path, str]:
    train = [plan for plan in plans if plan.split == "train"]
    held_out = [plan for plan in plans if plan.split == "eval"]
    motion = [plan for plan in held_out if DISTORTIONS[plan.distortion].kind == "motion"]
    truth = {
        plan.path: {
            "content": plan.content,
            "split": plan.split,
            "distortion": plan.distortion,
            "kind": DISTORTIONS[plan.distortion].kind,
            "severity": plan.severity,
            "true_mos": plan.true_mos,
            "mos": plan.mos,
        }
        for plan in plans
    }
    levels, scores, drawn = quality_records(train, seed)
    records = {
        "distortion": distortion_records(train),
        "level": levels,
        "score": scores,
        "choice_lessons": choice_lessons(drawn),
        "choice": choice_records(train),
        "choice_eval": choice_records(held_out),
    }
    return {
        demo.train_jsonl: _jsonl([_train_line(number, plan) for number, plan in enumerate(train)]),
        **{path: _jsonl(records[name]) for name, path in demo.records.items()},
        demo.texts: "\n".join(lesson_texts()) + "\n",
        demo.eval_json: meta_json((plan.path, plan.mos) for plan in held_out),
        demo.eval_motion_json: meta_json((plan.path, plan.mos) for plan in motion),
        demo.distortions_json: json.dumps(truth, indent=1) + "\n",
    }


def _jsonl(records: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def meta_json(mos: Iterable[tuple[str, float]]) -> str:
    """A meta JSON of the (path, MOS) of clips or pictures."""
    annotations = [
        {"image_id": path, "ann_type": "score", "score": f"{value:.2f}"} for path, value in mos
    ]
    return json.dumps({"annotations": annotations}, indent=1) + "\n"


def _train_line(number: int, plan: ClipPlan) -> dict[str, Any]:
    return {
        "id": number,
        "dataset_name": DATASET,
        "image": [plan.path],
        "conversations": [
            {"from": "human", "value": prompts.QUESTION},
            {"from": "gpt", "value": plan.mos},
        ],
        "tags": {"distortion": plan.distortion},
    }
