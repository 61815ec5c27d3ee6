"""Held-out figures of a policy, before, during and after training."""

from trl import GRPOConfig

from thinker.config.run import RunConfig
from thinker.eval.metrics import plcc, srcc
from thinker.policies import Policy
from thinker.rollout.base import Rollout
from thinker.score.question import Question
from thinker.score.scorer import QualityScorer
from thinker.train.run_data import RunData

EVAL_BATCH = 64


HeldOutFigures = dict[str, dict[str, float | None]]
"""By held-out set: srcc, plcc, valid_share."""


def held_out(policy: Policy, data: RunData, rollout: Rollout, config: RunConfig) -> HeldOutFigures:
    """SRCC, PLCC and the share of valid answers, by held-out set; each video is scored once."""
    max_new_tokens = config.grpo.get("max_completion_length", GRPOConfig.max_completion_length)
    scorer = QualityScorer(policy, rollout, max_new_tokens=max_new_tokens, batch_size=EVAL_BATCH)
    paths = dict.fromkeys(s.media[0].path for _, samples in data.eval_sets for s in samples)
    stream = scorer.answer_stream(Question(clips=(data.reader(path),)) for path in paths)
    scores = dict(zip(paths, (prediction.score for prediction in stream), strict=True))
    return {
        eval_set.key: _figures(
            [(scores[s.media[0].path], s.target) for s in samples if s.target is not None]
        )
        for eval_set, samples in data.eval_sets
    }


def _figures(pairs: list[tuple[float | None, float]]) -> dict[str, float | None]:
    scored = [(score, target) for score, target in pairs if score is not None]
    predicted, targets = [p for p, _ in scored], [t for _, t in scored]
    return {
        "srcc": srcc(predicted, targets).value,
        "plcc": plcc(predicted, targets).value,
        "valid_share": len(scored) / max(len(pairs), 1),
    }


def logged_figures(
    policy: Policy, rollout: Rollout, *, data: RunData, config: RunConfig
) -> dict[str, float]:
    """Held-out figures under the names of a log: those of the first set plain, others by key."""
    scores = held_out(policy, data, rollout, config)
    return {
        name if number == 0 else f"{key}_{name}": value
        for number, (key, figures) in enumerate(scores.items())
        for name, value in figures.items()
        if value is not None
    }
