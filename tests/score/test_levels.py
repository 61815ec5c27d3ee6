"""Level words, weights, question and prefix of a policy's own."""

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from tests.helpers.policy_factory import SIZE, random_clip, random_still
from thinker.policies import Policy, load_policy, tiny_policy
from thinker.score.levels import level_ids, shares_of_logits
from thinker.score.question import Question
from thinker.score.scorer import QualityScorer
from thinker.tasks.level import (
    LEVEL_PREFIX,
    LEVEL_QUESTION,
    LEVELS,
    VQA2_LEVELS,
    VQA2_WORDS,
    LevelConfig,
    LevelTask,
)

QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
FIFTHS = (0.2, 0.4, 0.6, 0.8, 1.0)


@pytest.fixture(scope="module")
def policy() -> Policy:
    texts = [f"{prefix} {word}." for word in VQA2_WORDS for prefix in PREFIXES]
    return tiny_policy("internvl3", size=SIZE, texts=tuple(texts))


PREFIXES = (VQA2_LEVELS.video_prefix, VQA2_LEVELS.image_prefix)


def test_shares_and_score_by_hand() -> None:
    """Logits 2, 1, 0, -1, -2 of the words, best last: e^-4 … e^0 over their sum, 1.57132."""
    shares = shares_of_logits(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]))
    powers = [math.exp(k) for k in (-4, -3, -2, -1, 0)]
    expected = [power / sum(powers) for power in powers]
    torch.testing.assert_close(shares, torch.tensor(expected), atol=1e-7, rtol=0)
    # .0117·0 + .0317·.25 + .0861·.5 + .2341·.75 + .6364·1
    assert sum(w * p for w, p in zip(QUARTERS, shares.tolist(), strict=True)) == pytest.approx(
        0.862985, abs=1e-6
    )


def test_large_logits_do_not_overflow() -> None:
    """exp(1000) is infinite in float32; its share is not."""
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        shares = shares_of_logits(torch.tensor([1000.0, 1000.0, 0.0, 0.0, -1000.0], dtype=dtype))
        assert shares.dtype == torch.float32 and shares.tolist() == [0.5, 0.5, 0, 0, 0]
    torch.testing.assert_close(
        shares_of_logits(torch.tensor([1000.0, 1001.0])), torch.tensor([0.2689414, 0.7310586])
    )


def test_weights_on_the_answer_scale() -> None:
    assert LevelConfig().scores == (1, 2, 3, 4, 5)
    assert LevelConfig(weights=QUARTERS, weight_range=(0, 1)).scores == (1, 2, 3, 4, 5)
    fifths = LevelConfig(weights=FIFTHS, weight_range=(0, 1)).scores
    assert fifths == pytest.approx((1.8, 2.6, 3.4, 4.2, 5))


def test_affine_weights_rank_and_correlate_the_same() -> None:
    """.2 + .8 x is what VQA² changed between its releases: SRCC and PLCC cannot tell."""
    draw = np.random.default_rng(0)
    logits = torch.tensor(draw.normal(0, 2, (50, 5)), dtype=torch.float32)
    mos, shares = draw.uniform(1, 5, 50), shares_of_logits(logits).double().numpy()
    figures = []
    for weights, span in ((QUARTERS, (0, 1)), (FIFTHS, (0, 1)), ((1, 2, 3, 4, 5), (1, 5))):
        scores = shares @ np.array(LevelConfig(weights=weights, weight_range=span).scores)
        figures.append((stats.spearmanr(scores, mos).statistic, stats.pearsonr(scores, mos)[0]))
    # 1e-6: shares in float32 sum to 1 within 1e-7, and the map is affine as far as they do.
    assert figures[0] == pytest.approx(figures[1], abs=1e-6)
    assert figures[0] == pytest.approx(figures[2], abs=1e-6)
    uneven = shares @ np.array(LevelConfig(weights=(1, 1.1, 1.2, 4.9, 5)).scores)
    assert stats.pearsonr(uneven, mos)[0] != pytest.approx(figures[0][1], abs=1e-3)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"words": ("bad", "good")}, "five different"),
        ({"words": ("a", "a", "b", "c", "d")}, "five different"),
        ({"words": ("Bad", "b", "c", "d", "e")}, "lower case"),
        ({"weights": (5, 4, 3, 2, 1)}, "ascend"),
        ({"weights": (1, 2, 3)}, "five that ascend"),
        ({"weights": QUARTERS}, "weight_range"),
        ({"weight_range": (5, 1)}, "weight_range"),
    ],
)
def test_what_is_no_wording(fields: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LevelConfig(**fields)
    with pytest.raises(ValueError, match="level_config"):
        LevelConfig.from_dict({"wörter": []})


def test_a_policy_is_scored_by_its_own_words(policy, tmp_path) -> None:
    """Its probabilities are those of the plain logits behind the prefix of the kind, and it keeps
    its words when it is saved; a configuration without the key has today's."""
    policy.set_levels(VQA2_LEVELS)
    policy.save(tmp_path)
    assert load_policy(tmp_path).inputs.levels == VQA2_LEVELS
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings.pop("level_config")["words"] == list(VQA2_WORDS)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert load_policy(tmp_path).inputs.levels == LevelConfig()
    assert LevelConfig().question("image") == LevelConfig().question("video") == LEVEL_QUESTION
    assert LevelConfig().prefix("image") == LEVEL_PREFIX and LevelConfig().words == LEVELS

    video, still = random_clip(policy, 1), random_still(policy, 2)
    rows = QualityScorer(policy, mode="level").score_clips([video, still])
    weights = np.array(VQA2_LEVELS.scores)
    for clip, row in zip((video, still), rows, strict=True):
        scorer = QualityScorer(policy, mode="level")
        prompt = scorer._prompt(Question(clips=(clip,)), "level")
        assert prompt.turns[0].text == VQA2_LEVELS.question(clip.kind)
        prefix, firsts = level_ids(policy.tokenizer, VQA2_WORDS, VQA2_LEVELS.prefix(clip.kind))
        ids = torch.tensor([[*policy.inputs.prompt_ids(prompt), *prefix]])
        with torch.no_grad():
            logits = policy.model.eval()(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                media_inputs=policy.inputs.media_inputs([clip]),
                media_rows=[(0,)],
            ).logits[0, -1, firsts]
        shares = logits.double().softmax(-1).numpy()
        assert row.score == pytest.approx(float(shares @ weights), abs=1e-5)


def test_an_answer_without_a_prefix(policy) -> None:
    """October 2025's video scorer forces none: the word itself opens the answer."""
    prefix, firsts = level_ids(policy.tokenizer, VQA2_WORDS, "")
    assert prefix == [] and len(set(firsts)) == 5
    tokens = policy.tokenizer.convert_ids_to_tokens(firsts)
    assert all(word.startswith(token) for word, token in zip(VQA2_WORDS, tokens, strict=True))


def test_answers_are_read_by_the_words_of_the_policy(policy) -> None:
    policy.set_levels(VQA2_LEVELS)
    scorer = QualityScorer(policy)
    known = LevelTask().read_reference(4.9, ())
    question = Question(clips=(random_clip(policy, 1),), task="level", reference=known)
    read = LevelTask().parse("The quality of the video is high.", scorer._reference(question))
    assert read.value == known.answer == "excellent"
    policy.set_levels(LevelConfig())
    assert scorer._reference(question) is known
