"""Held-out figures of a policy, before, during and after training."""

from thinker.config.run import GrpoStage, RunConfig
from thinker.data.examples import Example
from thinker.eval.judge import brief_figures
from thinker.policies import Policy
from thinker.rollout.base import Rollout
from thinker.score.scorer import QualityScorer
from thinker.train.run_data import RunData

EVAL_BATCH = 64

DEFAULT_ANSWER_TOKENS = 256  # of a run without a grpo stage that says more; TRL's own default


HeldOutFigures = dict[str, dict[str, float | None]]
"""By held-out set (by set and task, where a set holds several): the most telling figures of the
task, such as srcc and plcc, or accuracy, and valid_share."""


def held_out(policy: Policy, data: RunData, rollout: Rollout, config: RunConfig) -> HeldOutFigures:
    """Figures of all held-out sets; what several of them ask is answered once."""
    scorer = QualityScorer(
        policy, rollout, max_new_tokens=answer_tokens(config), batch_size=EVAL_BATCH
    )
    asked = {_asked(e): e for _, examples in data.eval_sets for e in examples}
    predictions = scorer.predict(list(asked.values()), read=data.reader)
    answers = dict(zip(asked, predictions, strict=True))
    figures: HeldOutFigures = {}
    for eval_set, examples in data.eval_sets:
        brief = brief_figures(examples, [answers[_asked(example)] for example in examples])
        for task, values in brief.items():
            figures[eval_set.key if len(brief) == 1 else f"{eval_set.key}_{task}"] = values
    return figures


def _asked(example: Example) -> tuple:
    """What an answer depends on: not the label, which sets may have on scales of their own."""
    return (example.task, example.media, example.turns, example.options)


def answer_tokens(config: RunConfig) -> int:
    """How long answers may be: as in the stages that train them."""
    lengths = [
        stage.trainer.get("max_completion_length", DEFAULT_ANSWER_TOKENS)
        for stage in config.stages
        if isinstance(stage, GrpoStage)
    ]
    return max(lengths, default=DEFAULT_ANSWER_TOKENS)


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
