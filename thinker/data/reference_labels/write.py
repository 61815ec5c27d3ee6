"""What a run leaves beside its clips: label files, their data set YAML, manifest, distortions.

The label's name stands wherever a label does: `vmaf_train.jsonl`, `vmaf_eval.json`, `vmaf.yaml`
with `label_name: vmaf`, and a `label_name` in every line of `clips.jsonl`.
"""

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import stats

from thinker.data.records import dataset_key
from thinker.data.reference_labels.plan import EVAL, TRAIN
from thinker.data.reference_labels.settings import ReferenceLabelSettings
from thinker.data.reference_labels.window import Entry
from thinker.prompts import SHORT_SCORING
from thinker.utils.atomic import atomic_file, write_atomic

NUM_BINS = 10
MIN_RANKED = 3
"""Any two points correlate perfectly."""


def write_files(
    output: Path,
    entries: Sequence[Entry],
    settings: ReferenceLabelSettings,
    fingerprint: dict[str, Any],
    failed: Sequence[str],
) -> dict[str, Any]:
    """Write every file but the clips; returns the manifest."""
    used = flattened(entries, settings) if settings.flatten else list(entries)
    kept = {entry["path"] for entry in used}
    _write_lines(
        output / "clips.jsonl",
        (json.dumps(entry | {"is_used": entry["path"] in kept}) for entry in entries),
    )
    parts = {side: [entry for entry in used if entry["split"] == side] for side in (TRAIN, EVAL)}
    name, key = settings.label, dataset_key(settings.name)
    if parts[TRAIN]:
        train = (_train_line(entry, settings.name) for entry in parts[TRAIN])
        _write_lines(output / f"{name}_train.jsonl", train)
    if parts[EVAL]:
        annotations = {"annotations": [_annotation(entry) for entry in parts[EVAL]]}
        write_atomic(output / f"{name}_eval.json", json.dumps(annotations, indent=0) + "\n")
    write_atomic(output / f"{name}.yaml", _yaml(settings, key, parts))
    truth = {
        entry["path"]: {
            "content": entry["content"],
            "split": entry["split"],
            "distortion": entry["word"],
            "severity": entry["severity"],
        }
        for entry in used
    }
    write_atomic(output / "distortions.json", json.dumps(truth, indent=0) + "\n")
    manifest = {
        "label": {
            "name": name,
            "version": fingerprint["label_version"],
            "scale": asdict(settings.scale),
            "is_a_rating": False,
        },
        "num_clips": dict(Counter(entry["split"] for entry in used)),
        "num_shots": {s: len({e["content"] for e in parts[s]}) for s in parts},
        "num_left_out_to_flatten": len(entries) - len(used),
        "labels": {side: _spread(parts[side], settings) for side in parts},
        "conditions": _by_condition(entries, settings),
        "larger_crops": _agreement(entries),
        "failed": list(failed),
        "configuration": fingerprint,
    }
    write_atomic(output / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    return manifest


def flattened(entries: Sequence[Entry], settings: ReferenceLabelSettings) -> list[Entry]:
    """Of each side, at most as many clips from a tenth of the label's scale as a tenth holds on the
    average. The order stays.

    With labels 95, 96, 97 and 5 on 0..100 a tenth holds .4 on the average, and so 1 at most: 5 and
    one of the others are left.
    """
    left_out: set[int] = set()
    rng = random.Random(f"{settings.seed} flatten")
    for side in (TRAIN, EVAL):
        places = [i for i, entry in enumerate(entries) if entry["split"] == side]
        at_most = max(round(len(places) / NUM_BINS), 1)
        bins: dict[int, list[int]] = {}
        for place in places:
            bins.setdefault(_bin(entries[place]["label"], settings), []).append(place)
        for members in bins.values():
            left_out |= set(rng.sample(members, max(len(members) - at_most, 0)))
    return [entry for i, entry in enumerate(entries) if i not in left_out]


def _bin(label: float, settings: ReferenceLabelSettings) -> int:
    scale = settings.scale
    share = (label - scale.min) / (scale.max - scale.min)
    return min(int(share * NUM_BINS), NUM_BINS - 1)


def _train_line(entry: Entry, name: str) -> str:
    turns = [
        {"from": "human", "value": SHORT_SCORING},
        {"from": "gpt", "value": entry["label"]},
    ]
    return json.dumps(
        {
            "id": entry["path"].removesuffix(".mp4"),
            "dataset_name": name,
            "image": [entry["path"]],
            "conversations": turns,
            "content": entry["content"],
            "label_name": entry["label_name"],
            "tags": _tags(entry),
        }
    )


def _annotation(entry: Entry) -> dict[str, Any]:
    return {
        "image_id": entry["path"],
        "ann_type": "score",
        "score": entry["label"],
        "content": entry["content"],
        "label_name": entry["label_name"],
        "tags": _tags(entry),
    }


def _tags(entry: Entry) -> dict[str, str]:
    """What figures are given apart by, and what the reward `reasoning` compares with."""
    severity = {} if entry["severity"] is None else {"severity": entry["severity"]}
    return {"distortion": entry["word"], **severity}


def _write_lines(path: Path, lines: Iterator[str]) -> None:
    with atomic_file(path) as file:
        for line in lines:
            file.write(f"{line}\n".encode())


def _yaml(settings: ReferenceLabelSettings, key: str, parts: dict[str, list[Entry]]) -> str:
    scale = asdict(settings.scale)
    values: dict[str, Any] = {"name": settings.name}
    if parts[TRAIN]:
        values["train"] = [
            {"jsonl": f"{settings.label}_train.jsonl", "video_root": "clips", "mos_scale": scale}
        ]
    if parts[EVAL]:
        values["eval"] = [
            {
                "name": f"{settings.name}, held out",
                "key": f"{key}_held_out",
                "meta": f"{settings.label}_eval.json",
                "video_root": "clips",
                "mos_scale": dict(scale),
                "label_name": settings.label,
                "num_videos": len(parts[EVAL]),
            }
        ]
    values["source"] = f"{settings.label}, measured by thinker make-labels (manifest.json)"
    body = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
    return f"# Written by `thinker make-labels`; data_configs/README.md explains it.\n{body}"


def _spread(entries: Sequence[Entry], settings: ReferenceLabelSettings) -> dict[str, Any] | None:
    """Mean, deviation, and how many lie in each tenth of the scale."""
    if not entries:
        return None
    labels = np.array([entry["label"] for entry in entries])
    counts = Counter(_bin(label, settings) for label in labels.tolist())
    return {
        "mean": round(float(labels.mean()), 3),
        "standard_deviation": round(float(labels.std()), 3),
        "tenths": [counts[place] for place in range(NUM_BINS)],
    }


def _by_condition(entries: Sequence[Entry], settings: ReferenceLabelSettings) -> dict[str, Any]:
    """Of all clips that were made, in the order of the ladder: number, encoder, settings, quantiles
    of label and size."""
    groups: dict[str, list[Entry]] = {condition.name: [] for condition in settings.conditions}
    for entry in entries:
        groups[entry["condition"]].append(entry)
    return {
        name: {
            "word": own[0]["word"],
            "encoder": own[0]["encoder"],
            "encoder_settings": own[0]["encoder_settings"],
            "encoder_version": own[0]["encoder_version"],
            "num_clips": len(own),
            "label_quantiles_10_50_90": _quantiles([entry["label"] for entry in own]),
            "median_bytes": int(np.median([entry["num_bytes"] for entry in own])),
        }
        for name, own in groups.items()
        if own
    }


def _quantiles(values: Sequence[float]) -> list[float]:
    return [round(float(value), 3) for value in np.quantile(values, (0.1, 0.5, 0.9))]


def _agreement(entries: Sequence[Entry]) -> dict[str, Any] | None:
    """Rank correlation of the labels with those of larger crops around the same place; None where
    there are too few."""
    both = [entry for entry in entries if "check_label" in entry]
    if len(both) < MIN_RANKED:
        return None
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in both:
        groups.setdefault((entry["content"], entry["start_frame"], *entry["crop"]), []).append(
            entry
        )
    within = [_srcc(own) for own in groups.values() if len(own) >= MIN_RANKED]
    return {
        "num_clips": len(both),
        "num_crops": len(groups),
        "height": both[0]["height"],
        "larger_heights": sorted({entry["check_px"] for entry in both}),
        "srcc": _srcc(both),
        "mean_srcc_within_a_crop": round(float(np.nanmean(within)), 4) if within else None,
    }


def _srcc(entries: Sequence[Entry]) -> float:
    own, larger = zip(*((e["label"], e["check_label"]) for e in entries), strict=True)
    return round(float(stats.spearmanr(own, larger).statistic), 4)
