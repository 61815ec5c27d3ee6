"""What the app shows: numbers as they are, and every text of others escaped."""

from pathlib import Path

import numpy as np

from thinker.app import shown
from thinker.prompts import Turn
from thinker.score.conversation import SeenFrame
from thinker.score.prediction import Prediction
from thinker.tasks.level import LEVELS

EVIL = '<img src=x onerror="alert(1)">'


def row(**fields):
    return Prediction(**({"path": Path("a.mp4"), "score": None, "status": "ok"} | fields))


def test_a_card_has_score_spread_interval_and_levels_best_first():
    shares = ((1.0, 0.0), (2.0, 0.1), (3.0, 0.2), (4.0, 0.4), (5.0, 0.3))
    card = shown.score_card(
        row(score=3.9, mode="level", distribution=shares, spread=0.94, answer_range=(2.0, 5.0)),
        LEVELS,
    )
    for text in ("<b>3.90</b>", "spread of the answers ± 0.94", "answers from 2.00 to 5.00"):
        assert text in card
    # 3.9 lies at (3.9 - 1) / 4 = 72.5 % of the line, the band from 25 % over 75 %
    assert "left:72.5%" in card and "left:25.0%;width:75.0%" in card
    order = [card.index(f"<span>{word}</span>") for word in reversed(LEVELS)]
    assert order == sorted(order) and card.count('class="bar"') == 5
    assert card.index("excellent") < card.index("30 %") < card.index("good") < card.index("40 %")


def test_the_band_is_the_calibrated_interval_where_there_is_one():
    """3.0 to 4.0 lies from (3 - 1) / 4 = 50 % over 25 % of the line."""
    fields = {"answer_range": (2.0, 5.0), "interval": (3.0, 4.0), "calibrated_on": EVIL}
    card = shown.score_card(row(score=3.5, mode="level", **fields), LEVELS)
    assert "left:50.0%;width:25.0%" in card and "interval 3.00 to 4.00, for 90 in 100" in card
    assert EVIL not in card


def test_no_score_is_a_reason_and_never_a_number():
    card = shown.score_card(row(status="invalid_answer", error=f"no_answer: {EVIL}"), LEVELS)
    assert "no score: invalid answer: no_answer" in card
    assert EVIL not in card and "thinker-score" not in card


def test_texts_of_others_are_escaped():
    picture = np.zeros((4, 6, 3), dtype=np.uint8)
    frame = SeenFrame(medium=0, seconds=0.4, index=4, picture_HWC=picture)
    html = shown.frames(EVIL, [frame], is_image=False)
    assert "0.40 s · frame 4" in html and "data:image/png;base64," in html
    for text in (html, shown.problem(EVIL), shown.hint(EVIL), shown.written(EVIL)):
        assert "<img src=x" not in text and "&lt;img src=x" in text
    assert '"><script>' not in shown.player('"><script>', is_image=True)


def test_tiles_of_an_image_are_named():
    frames = [
        SeenFrame(medium=0, seconds=0.0, index=0, picture_HWC=np.zeros((200, 9, 3), np.uint8))
    ]
    assert "the whole picture" in shown.frames("a", frames, is_image=True)
    three = shown.frames("a", frames * 3, is_image=True)
    assert "tile 1" in three and "tile 2" in three and "tile 3" not in three
    assert "data:image/jpeg" in three  # larger than what is shown pixel by pixel


def test_a_chat_sets_reasoning_apart_while_it_is_written():
    turns = (
        Turn(role="system", text="Be short."),
        Turn(role="user", text="Is it sharp?"),
        Turn(role="assistant", text="<think>edges</think><answer>yes</answer>"),
    )
    chat = shown.messages(turns, "Why?", "<think>because")
    assert [(m["role"], m["content"], "metadata" in m) for m in chat] == [
        ("user", "Is it sharp?", False),
        ("assistant", "edges", True),
        ("assistant", "yes", False),
        ("user", "Why?", False),
        ("assistant", "because", True),
    ]
    assert shown.messages((), "Why?", "")[-1]["content"] == "…"
    assert shown.messages((), "Why?", "plain")[-1] == {"role": "assistant", "content": "plain"}


def test_a_timeline_in_a_line():
    rows = [row(score=4.0), row(score=2.0), row(status="decode_error", error="x")]
    text = shown.summary(rows, 2.0)
    assert "3 windows of 2 s" in text and "mean 3.00" in text and "worst 2.00 at 2 s" in text
    assert "1 without a score (decode_error)" in text
