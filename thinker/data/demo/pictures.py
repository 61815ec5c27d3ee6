"""Generated pictures with a known distortion and a known MOS, beside the demo set's clips.

In: a `PictureConfig`. Out: a folder with `pictures/` (PNG), `distortions.json` (the truth behind
the labels, by path, as the demo set writes it) and `train.json` and `eval.json` (MOS, meta JSON):
what `thinker records` makes questions of.

Distortions are the spatial ones of `plan.py`, and the MOS follow its rule.
"""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from thinker.data.demo.generate import meta_json
from thinker.data.demo.plan import (
    DISTORTIONS,
    SPLITS,
    ClipPlan,
    draw_distortions,
    rate,
    true_mos,
)
from thinker.data.demo.render import distort_picture
from thinker.data.demo.scenes import Scene
from thinker.utils.atomic import write_atomic

SPATIAL = tuple(name for name, what in DISTORTIONS.items() if what.kind == "spatial")
"""The distortions that a single picture shows."""
NONE_SHARE = 0.05
"""Share of pristine pictures."""
# Keeps the seeds of scenes apart from those of clips: no picture shows the scene of one.
_PICTURES = 11


@dataclass(frozen=True, kw_only=True)
class PictureConfig:
    """What the set holds."""

    num_train: int = 1200
    """Training pictures, each of its own scene."""
    num_eval: int = 200
    """Held-out pictures, each of its own scene."""
    size_px: int = 64
    """Both sides of a picture."""
    seed: int = 0
    """Of everything that is drawn."""

    def __post_init__(self) -> None:
        for name in ("num_train", "num_eval"):
            if getattr(self, name) < len(SPATIAL) + 1:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, expected at least {len(SPATIAL) + 1}: one "
                    "of every distortion, and a pristine one"
                )
        if self.size_px < 48 or self.size_px % 2:
            raise ValueError(f"size_px is {self.size_px}, expected an even number, at least 48")


def plan_pictures(config: PictureConfig) -> list[ClipPlan]:
    """Every picture with its labels, training pictures first."""
    plans = []
    for split_number, count in enumerate((config.num_train, config.num_eval)):
        split = SPLITS[split_number]
        rng = np.random.default_rng((config.seed, _PICTURES, split_number))
        for number, (name, severity) in enumerate(
            draw_distortions(SPATIAL, count, NONE_SHARE, rng)
        ):
            content = f"{split}_{number:04d}"
            mos = true_mos(name, severity)
            plans.append(
                ClipPlan(
                    path=f"{content}.png",
                    split=split,
                    content=content,
                    distortion=name,
                    severity=severity,
                    true_mos=round(mos, 4),
                    mos=rate(mos, rng),
                    scene_seed=(config.seed, _PICTURES, split_number, number),
                    clip_seed=(config.seed, _PICTURES, split_number, number, 0),
                )
            )
    return plans


def generate_picture_set(folder: Path, config: PictureConfig) -> None:
    """Write the set into `folder`; pictures that are there stay. What it draws depends on `config`
    only.

    Raises ValueError where the folder holds the set of another configuration.
    """
    plans = plan_pictures(config)
    truth = {plan.path: _truth(plan) for plan in plans}
    with picture_folder(folder, "distortions.json", truth) as pictures:
        for plan in plans:
            if not (pictures / plan.path).is_file():
                save_png(pictures / plan.path, _picture(plan, config.size_px))
        for split in SPLITS:
            own = [(plan.path, plan.mos) for plan in plans if plan.split == split]
            write_atomic(folder / f"{split}.json", meta_json(own))


@contextmanager
def picture_folder(folder: Path, label_name: str, labels: Any) -> Iterator[Path]:
    """The folder of a set's pictures, to be filled; its labels are written once it is: they say
    that the set is whole. Raises ValueError where it holds other labels."""
    pictures, label_file = folder / "pictures", folder / label_name
    pictures.mkdir(parents=True, exist_ok=True)
    text = json.dumps(labels, indent=1) + "\n"
    if label_file.is_file() and label_file.read_text(encoding="utf-8") != text:
        raise ValueError(f"{folder} holds another set of pictures; choose an empty folder")
    yield pictures
    write_atomic(label_file, text)


def _truth(plan: ClipPlan) -> dict[str, Any]:
    return {
        "split": plan.split,
        "distortion": plan.distortion,
        "severity": plan.severity,
        "true_mos": plan.true_mos,
        "mos": plan.mos,
    }


def _picture(plan: ClipPlan, size_px: int) -> np.ndarray:
    scene = Scene(plan.scene_seed, size_px)
    rng = np.random.default_rng(plan.clip_seed)
    return distort_picture(scene, plan.distortion, plan.severity, rng)


def save_png(path: Path, picture_HWC: np.ndarray) -> None:
    """Write a picture, uint8 RGB (H, W, 3), whole or not at all."""
    file = io.BytesIO()
    Image.fromarray(picture_HWC).save(file, format="PNG")
    write_atomic(path, file.getvalue(), flush=False)
