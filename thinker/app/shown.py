"""What the app shows, as HTML and as messages of a chat.

In: frames, rows, turns, texts of users and of the policy. Out: HTML in which every such text is
escaped. Pictures stand in the HTML itself, so none is written to a disk.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rewards import shown_reasoning
from thinker.prompts import Turn
from thinker.score.conversation import SeenFrame
from thinker.score.detail import Located
from thinker.score.prediction import OK, FoundBox, Prediction
from thinker.tasks.boxes import position_of

LOSSLESS_PX = 128
"""Frames up to this side are shown as they are; larger ones as JPEG."""
MODE_TITLES = {
    "level": "Level words",
    "reason": "Reasoning",
    "expected": "Reasoning; the mean of the scores that may follow",
    "sample": "Several draws; the text is that nearest the mean",
}


def problem(text: str) -> str:
    """An error, as text."""
    return f'<div class="thinker-problem" role="alert">{escape(text)}</div>'


def hint(text: str) -> str:
    """A line of explanation."""
    return f'<div class="thinker-hint">{escape(text)}</div>'


def frames(name: str, seen: Sequence[SeenFrame], *, is_image: bool) -> str:
    """The pictures that the policy saw of one medium, each with its time and number."""
    noun = "picture" if len(seen) == 1 else "pictures"
    cells = "".join(
        f'<figure><img alt="" src="{data_uri(frame.picture_HWC)}">'
        f"<figcaption>{escape(_caption(frame, place, len(seen), is_image))}</figcaption></figure>"
        for place, frame in enumerate(seen)
    )
    title = f"What the policy sees of <b>{escape(name)}</b>: {len(seen)} {noun}"
    return (
        f'<div class="thinker-seen"><p>{title}</p><div class="thinker-frames">{cells}</div></div>'
    )


def _caption(frame: SeenFrame, place: int, count: int, is_image: bool) -> str:
    if not is_image:
        return f"{frame.seconds:.2f} s · frame {frame.index}"
    if count == 1:
        return "the whole picture"
    return "the whole picture" if place == count - 1 else f"tile {place + 1}"


def data_uri(picture_HWC: np.ndarray) -> str:
    """A picture, uint8 RGB (H, W, 3), as the source of an `img`."""
    kind = "png" if max(picture_HWC.shape[:2]) <= LOSSLESS_PX else "jpeg"
    buffer = io.BytesIO()
    Image.fromarray(picture_HWC).save(buffer, format=kind, quality=88)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def player(url: str, *, is_image: bool) -> str:
    """The medium itself, where the browser can show it."""
    gone = "this.outerHTML='<i>This browser does not play the format; the policy reads it.</i>'"
    source = escape(url, quote=True)
    if is_image:
        return f'<div class="thinker-player"><img alt="" src="{source}" onerror="{gone}"></div>'
    return (
        f'<div class="thinker-player"><video controls muted loop playsinline preload="metadata" '
        f'src="{source}" onerror="{gone}"></video></div>'
    )


def score_card(row: Prediction, words: Sequence[str]) -> str:
    """A score with the spread of the answers, interval and distribution, or why there is none.

    words: the policy's level words, worst first.
    """
    title = f"<h4>{MODE_TITLES[row.mode]}</h4>"
    if row.score is None:
        return _card(title + f'<p class="thinker-none">no score: {escape(why_not(row))}</p>')
    text = f'<p class="thinker-text">{escape(row.reasoning)}</p>' if row.reasoning else ""
    number = f'<p class="thinker-score"><b>{row.score:.2f}</b> <span>of 1 to 5</span></p>'
    facts = []
    if row.spread is not None:
        facts.append(f"spread of the answers ± {row.spread:.2f}")
    if row.answer_range is not None:
        low, high = row.answer_range
        facts.append(f"answers from {low:.2f} to {high:.2f}")
    if row.interval is not None:
        low, high = row.interval
        name = escape(row.calibrated_on or "")
        facts.append(f"interval {low:.2f} to {high:.2f}, for 90 in 100 of media like {name}")
    if row.mode == "reason":
        facts.append("one answer, no spread")
    facts.append(f"{row.seconds:.1f} s")
    lines = f'<p class="thinker-facts">{" · ".join(facts)}</p>'
    note = hint(row.note) if row.note else ""
    return _card(title + text + number + _scale(row) + lines + _bars(row, words) + note)


def _card(inside: str) -> str:
    return f'<div class="thinker-card">{inside}</div>'


def _scale(row: Prediction) -> str:
    """A line from 1 to 5 with the score on it; the band is its interval, else that of answers."""

    def place(score: float) -> float:
        return 25 * (min(max(score, 1.0), 5.0) - 1)

    band = ""
    shown = row.interval or row.answer_range
    if shown is not None:
        low, high = map(place, shown)
        band = f'<i class="band" style="left:{low:.1f}%;width:{high - low:.1f}%"></i>'
    assert row.score is not None
    dot = f'<i class="dot" style="left:{place(row.score):.1f}%"></i>'
    return f'<div class="thinker-scale">{band}{dot}</div>'


def _bars(row: Prediction, words: Sequence[str]) -> str:
    """The distribution: of level words best first, of draws by their scores."""
    if row.mode == "reason" or not row.distribution:
        return ""
    if row.mode == "level":
        pairs = [(word, p) for word, (_, p) in zip(words, row.distribution, strict=True)][::-1]
    else:
        pairs = [(f"{float(score):.2f}", p) for score, p in row.distribution][::-1]
    rows = "".join(
        f"<span>{escape(str(word))}</span>"
        f'<span class="bar"><i style="width:{100 * p:.1f}%"></i></span><span>{100 * p:.0f} %</span>'
        for word, p in pairs
    )
    return f'<div class="thinker-bars">{rows}</div>'


def written(text: str) -> str:
    """The card of mode "reason" while it is written."""
    title = f"<h4>{MODE_TITLES['reason']}</h4>"
    return _card(f'{title}<p class="thinker-text">{escape(shown_reasoning(text))}</p>')


def cards(each: Sequence[str]) -> str:
    """Cards beside each other."""
    return f'<div class="thinker-grid">{"".join(each)}</div>' if each else ""


def located(one: Located) -> str:
    """The picture with its boxes, and what stands at each: class and severity, where it lies in
    words, how sure the policy is; or why there is nothing."""
    row = one.prediction
    if row.status != OK:
        return problem(why_not(row))
    when = "" if one.seconds is None else f"{one.seconds:.2f} s · frame {one.frame}"
    picture = f'<img alt="" src="{data_uri(np.asarray(one.drawn()))}">'
    items = "".join(f"<li>{escape(_found(box))}</li>" for box in row.boxes)
    said = f"<ol>{items}</ol>" if items else hint("The policy finds no distortion.")
    note = hint(f"Left out: {row.note}") if row.note else ""
    return f'<div class="thinker-located">{hint(when) if when else ""}{picture}{said}{note}</div>'


def _found(box: FoundBox) -> str:
    """Example: `severe noise · upper left · confidence 0.87`."""
    words = [" ".join(filter(None, [box.severity, box.name])) or "a place", position_of(box.box)]
    if box.confidence is not None:
        words.append(f"confidence {box.confidence:.2f}")
    return " · ".join(words)


def description(title: str, text: str, missing: Sequence[str] = ()) -> str:
    """What a policy says of a picture in words. missing: reasons of `rewards.parts`."""
    names = ", ".join(reason.removeprefix("missing_") for reason in missing)
    lacks = hint(f"Parts that are missing: {names}") if missing else ""
    return _card(
        f'<h4>{escape(title)}</h4><p class="thinker-text">{escape(text or "…")}</p>{lacks}'
    )


def why_not(row: Prediction) -> str:
    """Why a row has no answer, for a person."""
    return f"{row.status.replace('_', ' ')}: {row.error or 'no reason is given'}"


def messages(
    turns: Iterable[Turn], asked: str | None = None, answer: str | None = None
) -> list[dict[str, Any]]:
    """A chat, with a question and an answer that are on their way."""
    shown: list[dict[str, Any]] = []
    for turn in turns:
        if turn.role == "user":
            shown.append({"role": "user", "content": turn.text})
        elif turn.role == "assistant":
            shown += _answer(turn.text)
    if asked is not None:
        shown.append({"role": "user", "content": asked})
    if answer is not None:
        shown += _answer(answer or "…")
    return shown


def _answer(text: str) -> list[dict[str, Any]]:
    """A completion; its reasoning stands apart where tags mark it."""
    if "<think>" not in text and "<answer>" not in text:
        return [{"role": "assistant", "content": text}]
    found: list[dict[str, Any]] = []
    reasoning = shown_reasoning(text)
    if reasoning:
        title = {"title": "Reasoning"}
        found.append({"role": "assistant", "content": reasoning, "metadata": title})
    answer = text.partition("<answer>")[2].partition("</answer>")[0].strip()
    return [*found, {"role": "assistant", "content": answer}] if answer else found


def plot(png: Path) -> str:
    """A picture of a timeline."""
    content = base64.b64encode(png.read_bytes()).decode()
    return (
        f'<img class="thinker-plot" alt="score by seconds" src="data:image/png;base64,{content}">'
    )


def summary(rows: Sequence[Prediction], seconds: float) -> str:
    """A timeline in a line: how many windows, mean, worst, and how many have no score."""
    scored = [(row.score, place) for place, row in enumerate(rows) if row.score is not None]
    parts = [f"{len(rows)} windows of {seconds:g} s"]
    if scored:
        worst, place = min(scored)
        mean = sum(score for score, _ in scored) / len(scored)
        parts += [f"mean {mean:.2f}", f"worst {worst:.2f} at {place * seconds:g} s"]
    lost = sorted({row.status for row in rows if row.status != OK})
    if lost:
        num_lost = sum(row.status != OK for row in rows)
        parts.append(f"{num_lost} without a score ({', '.join(lost)})")
    return hint(" · ".join(parts))
