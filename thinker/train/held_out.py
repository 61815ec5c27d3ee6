"""Held-out figures of a policy, before, during and after training."""

from collections.abc import Sequence

from rewards import Answer
from thinker.config.run import GrpoStage, RunConfig
from thinker.data.examples import Example, parsed_reference
from thinker.eval.metrics import plcc, srcc
from thinker.policies import Policy, Prompt
from thinker.policies.encode import encode_prompts
from thinker.rollout.base import Rollout, Sampling
from thinker.score.question import Question
from thinker.score.scorer import QualityScorer
from thinker.tasks import TASKS
from thinker.train.run_data import RunData

EVAL_BATCH = 64

DEFAULT_ANSWER_TOKENS = 256  # of a run without a grpo stage that says more; TRL's own default


HeldOutFigures = dict[str, dict[str, float | None]]
"""By held-out set: srcc, plcc and valid_share of scores; accuracy and valid_share of choices."""


def held_out(policy: Policy, data: RunData, rollout: Rollout, config: RunConfig) -> HeldOutFigures:
    """SRCC and PLCC of scores, the accuracy of choices, and the share of valid answers, by held-out
    set; each video is scored once."""
    max_new_tokens = answer_tokens(config)
    scorer = QualityScorer(policy, rollout, max_new_tokens=max_new_tokens, batch_size=EVAL_BATCH)
    media = dict.fromkeys(
        e.media[0] for _, examples in data.eval_sets for e in examples if _scores(e)
    )
    stream = scorer.answer_stream(Question(clips=(data.reader(medium),)) for medium in media)
    scores = dict(zip(media, (prediction.score for prediction in stream), strict=True))
    figures: HeldOutFigures = {}
    for eval_set, examples in data.eval_sets:
        scored = [
            (scores[e.media[0]], e.target) for e in examples if _scores(e) and e.target is not None
        ]
        asked = [e for e in examples if e.task == "choice" and e.reference is not None]
        figures[eval_set.key] = {
            **(_score_figures(scored) if scored or not asked else {}),
            **(_choice_figures(policy, rollout, asked, data, max_new_tokens) if asked else {}),
        }
    return figures


def answer_tokens(config: RunConfig) -> int:
    """How long answers may be: as in the stages that train them."""
    lengths = [
        stage.trainer.get("max_completion_length", DEFAULT_ANSWER_TOKENS)
        for stage in config.stages
        if isinstance(stage, GrpoStage)
    ]
    return max(lengths, default=DEFAULT_ANSWER_TOKENS)


def _scores(example: Example) -> bool:
    return example.task == "score"


def _score_figures(pairs: list[tuple[float | None, float]]) -> dict[str, float | None]:
    scored = [(score, target) for score, target in pairs if score is not None]
    predicted, targets = [p for p, _ in scored], [t for _, t in scored]
    return {
        "srcc": srcc(predicted, targets).value,
        "plcc": plcc(predicted, targets).value,
        "valid_share": len(scored) / max(len(pairs), 1),
    }


def _choice_figures(
    policy: Policy,
    rollout: Rollout,
    examples: Sequence[Example],
    data: RunData,
    max_new_tokens: int,
) -> dict[str, float | None]:
    """Right answers and valid ones among all greedy answers."""
    greedy = Sampling(max_new_tokens=max_new_tokens, temperature=0)
    right, valid = 0, 0
    for first in range(0, len(examples), EVAL_BATCH):
        some = examples[first : first + EVAL_BATCH]
        prompts = [
            Prompt(clips=tuple(data.reader(m) for m in example.media), turns=example.turns)
            for example in some
        ]
        completions = rollout.generate(encode_prompts(policy, prompts), 1, greedy, seed=0)
        for example, (completion,) in zip(some, completions, strict=True):
            text = policy.tokenizer.decode(completion.token_ids, skip_special_tokens=True)
            reference = parsed_reference(example)
            answer = TASKS["choice"].parse(text, reference)
            if isinstance(answer, Answer):
                valid += 1
                right += answer.value == reference.answer
    return {"accuracy": right / len(examples), "valid_share": valid / len(examples)}


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
