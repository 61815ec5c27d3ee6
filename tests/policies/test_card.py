"""The model card of a saved policy."""

import pytest

from tests.helpers.policy_factory import small_policy
from thinker import prompts
from thinker.policies.card import _motion_text, model_card
from thinker.policies.motion import MotionConfig


@pytest.mark.parametrize("question", [None, "How good is it?"])
def test_card_shows_the_question_of_the_policy(question: str | None) -> None:
    model = small_policy("internvl3").model
    model.config.scoring_question = question
    assert f"> {question or prompts.SCORING}\n" in model_card(model)


def test_one_token_is_singular() -> None:
    one = MotionConfig(hidden_size=8, tokens_per_frame=1)
    assert _motion_text(one).endswith(" 1 token a keyframe.")
