"""Stage 2 of VQA²: the level of a video or picture, and of streamed videos with their stalls; the
score as a number, to compare with; and the form of a reasoned score, before reinforcement."""

from collections.abc import Mapping, Sequence

from thinker.data.builders.draft import Asked, Draft, Style
from thinker.data.builders.facts import Facts
from thinker.data.builders.media import FileInfo
from thinker.data.builders.wording import LEVEL_ANSWER, draw_of
from thinker.data.scale import MosScale
from thinker.prompts import scoring_answer
from thinker.tasks.stall_text import stall_text
from thinker.video.stalls.intervals import runs_of_seconds

STREAMING_QUESTION = (
    "Based on the above stalling information and the video key frames, how would you evaluate the "
    "quality of this video?"
)
SHARES = MosScale(min=0.0, max=1.0, mapping="linear")
"""The scale that a share of the range is on."""


def ugc(facts: Sequence[Facts], style: Style) -> list[Draft]:
    """The level of every rated medium."""
    return [
        Draft(
            paths=(known.path,),
            medium=known.kind,
            task="level",
            asked=(level_asked(known, style.word("level", known.path, medium=known.kind)),),
        )
        for known in facts
        if known.level is not None
    ]


def score(facts: Sequence[Facts], style: Style) -> list[Draft]:
    """The MOS of every rated medium on the answer scale, in the form that a score is read from. A
    share of .25 of the range is `<answer>2.00</answer>`.
    """
    return [
        _scored(known, style, f"<answer>{SHARES.to_answer(known.share):.2f}</answer>")
        for known in facts
        if known.share is not None
    ]


def reasoning(facts: Sequence[Facts], style: Style) -> list[Draft]:
    """What impairs every rated medium, its level, and a number that is drawn uniformly from the bin
    of that level: the form in which reinforcement begins, uncertain rather than wrong, with no MOS
    in it. Noise and a share of .25 of the range:
    `<think>noise, poor quality</think><answer>2.31</answer>`.
    """
    drafts = []
    for known in facts:
        if known.level is not None and known.distortion is not None:
            place = (
                style.words.index(known.level) + draw_of(style.seed, "number", known.path).random()
            )
            reason = f"{known.named(with_severity=style.with_severity)}, {known.level} quality"
            number = SHARES.to_answer(place / len(style.words))
            drafts.append(_scored(known, style, scoring_answer(reason, f"{number:.2f}")))
    return drafts


def _scored(known: Facts, style: Style, answer: str) -> Draft:
    """The question for a score with its answer: task "open", as what task "score" reads is a MOS;
    it has no words to teach."""
    question = style.word("score", known.path, medium=known.kind)
    return Draft(
        paths=(known.path,),
        medium=known.kind,
        task="open",
        asked=(Asked(question=question, answer=answer, keep=(answer,)),),
    )


def streaming(facts: Sequence[Facts], style: Style, infos: Mapping[str, FileInfo]) -> list[Draft]:
    """The level of every rated video whose stalls are known, with the score behind it.

    In the published form the stalls stand in the question, in words or as digits; else the record
    has them as `stalls`, and the reader puts them into words.
    """
    drafts = []
    for known in facts:
        if known.level is None or known.stalls is None or known.share is None:
            continue
        fields: dict = {"gt_score": f"{100 * known.share:.6g}"}
        said = ""
        if style.is_published:
            info = infos[known.path]
            runs = runs_of_seconds(known.stalls, info.num_frames, info.fps)
            said = stall_text(runs, info.num_frames, style.stall_form)
        else:
            fields |= {"stalls": [list(one) for one in known.stalls]}
            fields |= {"stall_form": style.stall_form}
        drafts.append(
            Draft(
                paths=(known.path,),
                medium="video",
                task="level",
                asked=(level_asked(known, STREAMING_QUESTION),),
                tags={"type": "stalled" if known.stalls else "smooth"},
                fields=fields,
                introduction=said,
            )
        )
    return drafts


def level_asked(known: Facts, question: str) -> Asked:
    """A question about the level, with the sentence that answers it."""
    assert known.level is not None
    answer = LEVEL_ANSWER.format(medium=known.kind, level=known.level)
    return Asked(question=question, answer=answer, keep=(known.level,))
