"""Stage 3 of VQA²: questions of seven kinds about one medium.

Whatever is known of it is asked: its distortion, the degree of each of its attributes, its stalls,
its level. Wrong answers to choose from are what other media of the set have.
"""

import random
from collections.abc import Callable, Sequence

from rewards.choice import LETTERS
from thinker.data.builders.draft import Asked, Draft, Style
from thinker.data.builders.facts import Depiction, Facts
from thinker.data.builders.stage2 import level_asked
from thinker.data.builders.wording import HENCE, draw_of, seconds_text

NUM_OPTIONS = 4
"""Of a multiple-choice question about a distortion, where the set has as many."""
SMOOTH = "It plays smoothly, without stalling."


def binary(facts: Sequence[Facts], style: Style) -> list[Draft]:
    """Yes or no: the distortion, whether it stalls, the degree of each attribute. Half of the
    questions name what another medium has, drawn with the seed, so that half are answered no; where
    no other is known, nothing is asked."""
    names, degrees = _distortions(facts), _degrees(facts)
    drafts = []
    for known in facts:
        draw = draw_of(style.seed, "binary", known.path)
        if known.distortion not in (None, "none") and len(names) > 1:
            right = known.distortion
            name = _other(right, names, draw) if draw.random() < 0.5 else right
            question = style.word("is_distortion", known.path, medium=known.kind, name=name)
            drafts.append(_yes_no(known, question, name == right, (name,)))
        if known.stalls is not None:
            question = style.word("is_stalling", known.path)
            drafts.append(_yes_no(known, question, bool(known.stalls), ("stall",)))
        for one in _degreed(known) if len(degrees) > 1 else ():
            degree = _other(one.degree, degrees, draw) if draw.random() < 0.5 else one.degree
            question = style.word(
                "is_degree", known.path, medium=known.kind, attribute=one.attribute, degree=degree
            )
            drafts.append(_yes_no(known, question, degree == one.degree, (one.attribute, degree)))
    return drafts


def multiple_choice(facts: Sequence[Facts], style: Style) -> list[Draft]:
    """A letter: which distortion (in an order that is drawn), which degree and which level (in
    their own order)."""
    names, degrees = _distortions(facts), _degrees(facts)
    drafts = []
    for known in facts:
        draw = draw_of(style.seed, "multiple choice", known.path)
        if known.distortion not in (None, "none") and len(names) > 1:
            others = [name for name in names if name != known.distortion]
            options = draw.sample(others, min(NUM_OPTIONS - 1, len(others)))
            options.insert(draw.randint(0, len(options)), known.distortion)
            question = style.word("which_distortion", known.path, medium=known.kind)
            drafts.append(_lettered(known, question, options, known.distortion))
        for one in _degreed(known):
            if len(degrees) > 1:
                question = style.word(
                    "which_degree", known.path, medium=known.kind, attribute=one.attribute
                )
                drafts.append(
                    _lettered(known, question, degrees[:26], one.degree, keep=(one.attribute,))
                )
        if known.level is not None:
            question = style.word("level", known.path, medium=known.kind)
            drafts.append(_lettered(known, question, style.words, known.level))
    return drafts


def open_ended(facts: Sequence[Facts], style: Style) -> list[Draft]:
    """In words: the main distortion, each attribute."""
    return [
        _one(known, "open", asked, kind="open")
        for known in facts
        for asked in (*_open_distortion(known, style), *_open_attributes(known, style))
    ]


def on_time(facts: Sequence[Facts], style: Style) -> list[Draft]:
    """When: the part in which an attribute has its degree, and the stalls."""
    return [
        _one(known, "open", asked, kind="time")
        for known in facts
        for asked in (*_when_attribute(known, style), *_when_stalls(known, style))
    ]


def in_context(facts: Sequence[Facts], style: Style) -> list[Draft]:
    """How it is in a part of the video that the question names."""
    drafts = []
    for known in facts:
        for one in known.depictions:
            if one.time is None:
                continue
            when = seconds_text(one.time)
            if one.attribute and one.degree:
                question = style.word("in_context", known.path, when=when, attribute=one.attribute)
                said = f"There the {one.attribute} is {one.degree}."
                answer = f"{said} {one.text}" if one.text else said
            else:
                question = style.word("in_context_text", known.path, when=when)
                answer = one.text or ""
            keep = (*_times(one.time), *_words(one))
            asked = Asked(question=question, answer=answer, keep=keep)
            drafts.append(_one(known, "open", asked, kind="in-context"))
    return drafts


def causal(facts: Sequence[Facts], style: Style) -> list[Draft]:
    """A depiction of the whole, and the level that follows from it."""
    drafts = []
    for known in facts:
        said = " ".join(_sentences(known))
        if known.level is None or not said:
            continue
        question = style.word("causal", known.path, medium=known.kind)
        answer = f"{said} {HENCE.format(medium=known.kind, level=known.level)}"
        keep = (known.level, *(word for one in known.depictions for word in _words(one)))
        asked = Asked(question=question, answer=answer, keep=keep)
        drafts.append(_one(known, "describe", asked, kind="causal"))
    return drafts


def conversation(facts: Sequence[Facts], style: Style) -> list[Draft]:
    """All that is known of a medium, in turns; the last one asks for the level, where there is
    one. Media of a single fact are left out."""
    drafts = []
    for known in facts:
        turns = [*_open_distortion(known, style), *_open_attributes(known, style)]
        turns += [*_when_attribute(known, style), *_when_stalls(known, style)]
        task = "open"
        if known.level is not None:
            question = style.word("level", known.path, medium=known.kind)
            turns.append(level_asked(known, question))
            task = "level"
        if len(turns) > 1:
            drafts.append(
                Draft(
                    paths=(known.path,),
                    medium=known.kind,
                    task=task,
                    asked=tuple(turns),
                    tags={"type": "conversation"},
                )
            )
    return drafts


KINDS: dict[str, Callable[[Sequence[Facts], Style], list[Draft]]] = {
    "binary": binary,
    "multiple-choice": multiple_choice,
    "open": open_ended,
    "time": on_time,
    "conversation": conversation,
    "in-context": in_context,
    "causal": causal,
}

# --- turns about one fact


def _open_distortion(known: Facts, style: Style) -> list[Asked]:
    if known.distortion in (None, "none"):
        return []
    said = known.distortion if known.severity is None else f"{known.severity} {known.distortion}"
    question = style.word("open_distortion", known.path, medium=known.kind)
    answer = f"This {known.kind} suffers most from {said}."
    return [Asked(question=question, answer=answer, keep=tuple(said.split()))]


def _open_attributes(known: Facts, style: Style) -> list[Asked]:
    turns = []
    for one in _degreed(known):
        question = style.word(
            "open_attribute", known.path, medium=known.kind, attribute=one.attribute
        )
        keep = (*_words(one), *_times(one.time))
        turns.append(Asked(question=question, answer=_sentence(one), keep=keep))
    return turns


def _when_attribute(known: Facts, style: Style) -> list[Asked]:
    turns = []
    for one in _degreed(known):
        if one.time is not None:
            question = style.word(
                "when_attribute", known.path, attribute=one.attribute, degree=one.degree
            )
            when = seconds_text(one.time)
            keep = (*_words(one), *_times(one.time))
            turns.append(Asked(question=question, answer=f"It is so {when}.", keep=keep))
    return turns


def _when_stalls(known: Facts, style: Style) -> list[Asked]:
    if known.stalls is None:
        return []
    times = [seconds_text(one) for one in known.stalls]
    answer = f"It stalls {', and '.join(times)}." if times else SMOOTH
    keep = ("stall", *(number for one in known.stalls for number in _times(one)))
    return [Asked(question=style.word("when_stalls", known.path), answer=answer, keep=keep)]


def _sentences(known: Facts) -> list[str]:
    """The texts of the depictions; where they have none, their facts in sentences."""
    found = [one.text or _sentence(one) for one in known.depictions]
    if not found and known.distortion is not None:
        clean = known.distortion == "none"
        severity = "" if known.severity is None else f"{known.severity} "
        what = "no visible distortion" if clean else f"{severity}{known.distortion}"
        found = [f"This {known.kind} shows {what}."]
    return found


def _sentence(one: Depiction) -> str:
    when = "" if one.time is None else f" {seconds_text(one.time)}"
    return f"The {one.attribute} is {one.degree}{when}."


def _words(one: Depiction) -> tuple[str, ...]:
    return tuple(word for word in (one.attribute, one.degree) if word)


def _times(time: tuple[float, float] | None) -> tuple[str, ...]:
    return () if time is None else tuple(f"{second:.1f}" for second in time)


# --- drafts


def _one(known: Facts, task: str, asked: Asked, *, kind: str) -> Draft:
    tags = {"type": kind} | ({"concern": known.concern} if known.concern else {})
    return Draft(paths=(known.path,), medium=known.kind, task=task, asked=(asked,), tags=tags)


def _yes_no(known: Facts, question: str, is_so: bool, keep: tuple[str, ...]) -> Draft:
    asked = Asked(question=question, answer="Yes" if is_so else "No", keep=keep)
    return _one(known, "choice", asked, kind="yes-or-no")


def _lettered(
    known: Facts, question: str, options: Sequence[str], right: str, keep: tuple[str, ...] = ()
) -> Draft:
    letter = LETTERS[list(options).index(right)]
    asked = Asked(question=question, answer=letter, options=tuple(options), keep=keep)
    return _one(known, "choice", asked, kind="what")


# --- what a set has


def _distortions(facts: Sequence[Facts]) -> list[str]:
    return sorted({known.distortion for known in facts if known.distortion} - {"none"})


def _degreed(known: Facts) -> list[Depiction]:
    return [one for one in known.depictions if one.attribute and one.degree]


def _degrees(facts: Sequence[Facts]) -> list[str]:
    """In the order in which the set names them first."""
    named = [one.degree for known in facts for one in _degreed(known)]
    return list(dict.fromkeys(degree for degree in named if degree))


def _other(right: str, known: Sequence[str], draw: random.Random) -> str:
    """Another of the set, drawn."""
    return draw.choice([name for name in known if name != right])
