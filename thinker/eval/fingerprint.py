"""What decides a run's results, as plain values: two runs that differ here may not share a folder.

Speed settings (batch size, workers) are left out, but for mode "sample", whose draws depend on the
composition of a batch.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from thinker.data.datasets import EvalSet
from thinker.policies.digest import model_digest
from thinker.score.scorer import QualityScorer
from thinker.tasks.level import LEVEL_PREFIX, LEVEL_QUESTION
from thinker.video import READER_VERSION


def scorer_fingerprint(scorer: QualityScorer) -> dict[str, Any]:
    """Model and settings of a scorer."""
    level = scorer.mode == "level"
    own_question = scorer.policy.inputs.question  # two policies may differ in it
    question = LEVEL_QUESTION + LEVEL_PREFIX if level else own_question
    values: dict[str, Any] = {
        "model": model_digest(scorer.model_name, scorer.policy),
        "version": scorer.version,
        "mode": scorer.mode,
        "prompt": _sha(question.encode()),
        "dtype": str(scorer.policy.model.dtype),
        "clip_spec": asdict(scorer.clip_spec),
        "reader_version": READER_VERSION,
    }
    if not level:
        values |= {"backend": scorer.rollout.name, "max_new_tokens": scorer.max_new_tokens}
    if scorer.mode == "sample":
        values |= {
            "num_samples": scorer.num_samples,
            "seed": scorer.seed,
            "batch_size": scorer.batch_size,
        }
    return values


def sets_fingerprint(sets: Sequence[EvalSet]) -> dict[str, Any]:
    """Labels, scale and place of each set."""
    return {
        eval_set.key: {
            "meta": _sha(eval_set.meta.read_bytes()),
            "video_root": str(eval_set.video_root.resolve()),
            "mos_scale": asdict(eval_set.mos_scale),
            "content_pattern": eval_set.content_pattern,
        }
        for eval_set in sets
    }


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
