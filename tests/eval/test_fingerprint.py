"""What tells two evaluations apart."""

from tests.helpers.policy_factory import small_policy
from thinker import prompts
from thinker.eval.fingerprint import scorer_fingerprint
from thinker.score.scorer import QualityScorer


def test_fingerprint_tells_questions_apart() -> None:
    """But in mode "level", which asks a question of its own."""
    policy = small_policy("internvl3")
    asked = {}
    for question in (prompts.SCORING, prompts.SHORT_SCORING):
        policy.inputs.question = question
        for mode in ("reason", "level"):
            scorer = QualityScorer(policy, mode=mode)
            asked.setdefault(mode, []).append(scorer_fingerprint(scorer)["prompt"])
    assert len(set(asked["reason"])) == 2 and len(set(asked["level"])) == 1
