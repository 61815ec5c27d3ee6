"""What decides a run's results, as plain values: two runs that differ here may not share a folder.

Speed settings (batch size, workers) are left out, but for mode "sample", whose draws depend on the
composition of a batch.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from thinker.data.datasets import EvalSet
from thinker.eval.sets import LoadedSet, Subset
from thinker.policies.digest import model_digest
from thinker.score.scorer import QualityScorer
from thinker.tasks.level import LevelConfig
from thinker.utils.names import path_text
from thinker.video import READER_VERSION

ROW_FORMAT = 2
"""Raised where a field of rows changes its meaning: 2 is that of `interval`."""


def scorer_fingerprint(scorer: QualityScorer) -> dict[str, Any]:
    """Model and settings of a scorer."""
    level = scorer.mode == "level"
    own_question = scorer.policy.inputs.question  # two policies may differ in it
    levels = scorer.policy.inputs.levels
    question = levels.video_question + levels.video_prefix if level else own_question
    values: dict[str, Any] = {
        "model": model_digest(scorer.model_name, scorer.policy),
        "version": scorer.version,
        "row_format": ROW_FORMAT,
        "mode": scorer.mode,
        "prompt": _sha(question.encode()),
        "dtype": str(scorer.policy.model.dtype),
        "clip_spec": asdict(scorer.clip_spec),
        "reader_version": READER_VERSION,
    }
    if levels != LevelConfig():  # by which levels are read in the other modes, too
        values["levels"] = levels.to_dict()
    if not level:
        values |= {"backend": scorer.rollout.name, "max_new_tokens": scorer.max_new_tokens}
    calibration = scorer.calibrations.get(scorer.mode)
    if calibration is not None:
        facts = calibration.facts
        values["calibration"] = {"dataset": facts.dataset, "radius": facts.radius}
    if scorer.mode == "sample":
        values |= {
            "num_samples": scorer.num_samples,
            "seed": scorer.seed,
            "batch_size": scorer.batch_size,
        }
    return values


def sets_fingerprint(loaded: Sequence[LoadedSet]) -> dict[str, Any]:
    """Labels and place of each set; of scores their scale, of other questions their wording."""
    return {one.key: _set_fingerprint(one) for one in loaded}


def _set_fingerprint(one: LoadedSet) -> dict[str, Any]:
    source = one.source
    common = {"subset": subset_fingerprint(one.subset)}
    if isinstance(source, EvalSet):
        return common | {
            "meta": _sha(source.meta.read_bytes()),
            "video_root": path_text(source.video_root.resolve()),
            "mos_scale": None if source.mos_scale is None else asdict(source.mos_scale),
            "content_pattern": source.content_pattern,
        }
    turns = [[[turn.role, turn.text] for turn in example.turns] for example in one.examples]
    return common | {
        "records": [_sha(path.read_bytes()) for path in source.records],
        "media_root": path_text(source.media_root.resolve()),
        "mos_scale": None if source.mos_scale is None else asdict(source.mos_scale),
        "content_pattern": source.content_pattern,
        "task": one.task,
        "questions": _sha(json.dumps(turns).encode()),
    }


def subset_fingerprint(subset: Subset | None) -> str | None:
    """Which examples were chosen, in whatever order they are listed."""
    return (
        None
        if subset is None
        else _sha("\n".join(sorted(subset.names)).encode(errors="surrogateescape"))
    )


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
