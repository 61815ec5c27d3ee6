"""The nine roles of ViDA-UGC (arXiv 2508.12605): what a picture's local distortions are, where they
are, and what follows for the whole.

In: `Facts` with `places`, as `train_metadata.json` says them. Out: drafts of one role. The
questions of detection, region and score are those of ViDA (MIPI challenge, ICCV 2025); boxes are
thousandths of the picture's sides. The short form leaves the marks of boxes and references away.
"""

from collections.abc import Callable, Iterable, Sequence

from rewards.boxes import BOX_SEVERITIES, Box, box_iou
from rewards.choice import LETTERS
from thinker.data.builders.draft import Asked, Draft, Style
from thinker.data.builders.facts import Facts, Place
from thinker.data.builders.wording import draw_of
from thinker.tasks.boxes import DETECTION, EXPERT, POSITIONS, REFERRING, REGION
from thinker.tasks.describe import (
    BRIEF,
    BRIEF_DESCRIPTION,
    DESCRIBER,
    DESCRIPTION,
    ONE_KIND,
    ONE_KIND_QUESTION,
)

NOTHING = "There is no distortion in the image."
NO_REGION = "No distortion affects this region."
SCORE = "Assess the quality of this image."
VERDICT = "Thus, the quality of the image is {level}."
_WORST_FIRST = (*reversed(BOX_SEVERITIES), None)
MOST_OPTIONS = 4
CLEAN_TRIES = 20
"""Of a region that no distortion touches."""


def assess(facts: Sequence[Facts], style: Style) -> list[Draft]:
    """A description in four steps, of pictures with a level."""
    drafts = []
    for known, places in _known(facts):
        if known.level is None:
            continue
        steps = [f"The image shows one scene, in which {_impaired(len(places))}."]
        steps += [" ".join(_occurrence(place, style) for place in places) or NOTHING]
        steps += [_key(places, style), VERDICT.format(level=known.level)]
        drafts.append(_draft(known, "describe", DESCRIPTION, "\n".join(steps), DESCRIBER))
    return drafts


def brief_assess(facts: Sequence[Facts], style: Style) -> list[Draft]:
    """The same in three points."""
    drafts = []
    for known, places in _known(facts):
        if known.level is None:
            continue
        found = "; ".join(f"{_said(p)}, {p.impact}" if p.impact else _said(p) for p in places)
        answer = (
            f"**Conclusion**: The quality of the image is {known.level}.\n"
            f"**Distortion assessment**: {_impaired(len(places)).capitalize()}"
            f"{f': {found}' if found else ''}.\n"
            "**Scene description**: One scene."
        )
        drafts.append(_draft(known, "describe", BRIEF_DESCRIPTION, answer, BRIEF))
    return drafts


def dist_assess(facts: Sequence[Facts], style: Style) -> list[Draft]:
    """One kind of distortion, each that a picture has, and one that it does not have."""
    names = sorted({place.name for _, places in _known(facts) for place in places})
    drafts = []
    for known, places in _known(facts):
        own = list(dict.fromkeys(place.name for place in places))
        others = [name for name in names if name not in own]
        draw = draw_of(style.seed, "dist_assess", known.path)
        for name in (*own, *draw.sample(others, min(1, len(others)))):
            of_it = [place for place in places if place.name == name]
            said = [f"There is no {name} in this image."]
            if of_it:
                said = [f"By {name}, {_impaired(len(of_it))}."]
                said += [_occurrence(place, style) for place in of_it]
            question = ONE_KIND_QUESTION.format(name=name)
            drafts.append(_draft(known, "open", question, " ".join(said), ONE_KIND))
    return drafts


def dist_detect(facts: Sequence[Facts], style: Style) -> list[Draft]:
    """All distortions with their boxes, by class and severity."""
    return [
        _draft(known, "boxes", DETECTION, boxes_text(places, style) or NOTHING)
        for known, places in _known(facts)
    ]


def reg_perception(facts: Sequence[Facts], style: Style) -> list[Draft]:
    """What affects a region: each that is impaired, and one that is not."""
    drafts = []
    for known, places in _known(facts):
        for place in places:
            question = REGION.format(box=box_text(place.box, style))
            answer = boxes_text([place], style, one_line=True)
            drafts.append(_draft(known, "boxes", question, answer))
        clean = _clean_region(known, places, style)
        if clean is not None:
            question = REGION.format(box=box_text(clean, style))
            drafts.append(_draft(known, "boxes", question, NO_REGION))
    return drafts


def ref_grounding(facts: Sequence[Facts], style: Style) -> list[Draft]:
    """The box of a sentence, where it fits one place only."""
    drafts = []
    for known, places in _known(facts):
        sentences = [_sentence(place) for place in places]
        for place, sentence in zip(places, sentences, strict=True):
            if sentences.count(sentence) == 1:
                question = REFERRING.format(sentence=sentence)
                drafts.append(_draft(known, "boxes", question, f"{box_text(place.box, style)}."))
    return drafts


def mcq(facts: Sequence[Facts], style: Style) -> list[Draft]:
    """Choices about type, severity, position and importance."""
    return [
        _draft(known, "choice", asked.question, asked.answer, concern=concern, asked=asked)
        for known, concern, asked, _ in _questions(facts, style)
    ]


def qa(facts: Sequence[Facts], style: Style) -> list[Draft]:
    """The same questions, answered in words."""
    return [
        _draft(known, "open", asked.question, f"{right.capitalize()}.", concern=concern)
        for known, concern, asked, right in _questions(facts, style)
    ]


def score(facts: Sequence[Facts], style: Style) -> list[Draft]:
    """The level of the whole."""
    return [
        _draft(known, "level", SCORE, f"The quality of the image is {known.level}.")
        for known, _ in _known(facts)
        if known.level is not None
    ]


ROLES: dict[str, Callable[[Sequence[Facts], Style], list[Draft]]] = {
    "assess": assess,
    "brief-assess": brief_assess,
    "dist-assess": dist_assess,
    "dist-detect": dist_detect,
    "reg-perception": reg_perception,
    "ref-grounding": ref_grounding,
    "mcq": mcq,
    "qa": qa,
    "image-score": score,
}
"""By the name of their files."""


def boxes_text(places: Sequence[Place], style: Style, *, one_line: bool = False) -> str:
    """Classes, then severities, then their boxes; empty where there is nothing.

    Example, short: "Noise: severe noise (10,20),(30,40) (50,60),(70,80)."
    """
    lines = []
    for name in dict.fromkeys(place.name for place in places):
        of_it = [place for place in places if place.name == name]
        of_it.sort(key=lambda place: _WORST_FIRST.index(place.severity))
        groups = []
        for label in dict.fromkeys(place.label for place in of_it):
            boxes = [box_text(place.box, style) for place in of_it if place.label == label]
            between = "" if style.is_published else " "
            groups.append(_reference(label, style) + between.join(boxes))
        gap = "\n" if style.is_published and not one_line else " "
        inner = "\n" if style.is_published else ", "
        lines.append(f"{name.capitalize()}:{gap}{inner.join(groups)}")
    return "\n".join(lines) + ("." if lines else "")


def _reference(label: str, style: Style) -> str:
    if style.is_published:
        return f"<|object_ref_start|>{label.capitalize()}<|object_ref_end|>"
    return f"{label} "


def box_text(box: Box, style: Style) -> str:
    """Corners in whole thousandths; short, "(10,20),(30,40)"."""
    left, top, right, bottom = (round(side) for side in box)
    corners = f"({left},{top}),({right},{bottom})"
    return f"<|box_start|>{corners}<|box_end|>" if style.is_published else corners


def _marked(place: Place, style: Style) -> str:
    return _reference(place.label, style) + box_text(place.box, style)


def _where(place: Place) -> str:
    return f" at the {place.position}" if place.position else ""


def _said(place: Place) -> str:
    return place.label + _where(place)


def _sentence(place: Place) -> str:
    how = f"; {place.manifestation}" if place.manifestation else ""
    return f"There is {_said(place)}{how}."


def _occurrence(place: Place, style: Style) -> str:
    told = "; ".join(word for word in (place.manifestation, place.impact) if word)
    return f"There is one {_marked(place, style)}{_where(place)}{f': {told}' if told else ''}."


def _key(places: Sequence[Place], style: Style) -> str:
    """The distortions of the highest importance, in one sentence."""
    if not places:
        return "There is no key distortion."
    most = max(place.importance or 0.0 for place in places)
    key = [place for place in places if (place.importance or 0.0) == most]
    named = [_marked(place, style) for place in key]
    verb = "distortion is" if len(key) == 1 else "distortions are"
    return f"The key {verb} {', '.join(named)}. That decides how the image is seen."


def _impaired(number: int) -> str:
    if number == 0:
        return "no region is impaired"
    return "1 region is impaired" if number == 1 else f"{number} regions are impaired"


def _questions(facts: Sequence[Facts], style: Style) -> Iterable[tuple[Facts, str, Asked, str]]:
    """(picture, concern, question with options, right option)."""
    pictures = _known(facts)
    names = sorted({place.name for _, places in pictures for place in places})
    for known, places in pictures:
        draw = draw_of(style.seed, "mcq", known.path)

        def asked(question, right, pool, draw=draw):
            others = [one for one in pool if one != right]
            options = draw.sample(others, min(MOST_OPTIONS - 1, len(others)))
            options.insert(draw.randint(0, len(options)), right)
            letter = LETTERS[options.index(right)]
            return Asked(question=question, answer=letter, options=tuple(options)), right

        where = [place.position for place in places]
        for place in places:
            if [other.name for other in places].count(place.name) == 1:
                if place.position:
                    question = f"Where in the image is the {place.name}?"
                    yield (known, "position", *asked(question, place.position, POSITIONS))
                if place.severity:
                    question = f"How severe is the {place.name} of this image?"
                    yield (known, "severity", *asked(question, place.severity, BOX_SEVERITIES))
            if place.position and where.count(place.position) == 1 and len(names) > 1:
                question = f"Which distortion affects the {place.position} of this image?"
                yield (known, "type", *asked(question, place.name, names))
        ranked = sorted(places, key=lambda place: -(place.importance or 0.0))
        if len(ranked) > 1 and (ranked[0].importance or 0) > (ranked[1].importance or 0):
            own = list(dict.fromkeys(place.name for place in places))
            if len(own) > 1:
                question = "Which distortion affects the quality of this image most?"
                yield (known, "significance", *asked(question, ranked[0].name, own))


def _clean_region(known: Facts, places: Sequence[Place], style: Style) -> Box | None:
    """A region of a fifth to two fifths of the sides that no distortion touches."""
    draw = draw_of(style.seed, "clean region", known.path)
    for _ in range(CLEAN_TRIES):
        width, height = draw.randint(200, 400), draw.randint(200, 400)
        left, top = draw.randint(0, 1000 - width), draw.randint(0, 1000 - height)
        box = (left, top, left + width, top + height)
        if all(box_iou(box, place.box) == 0 for place in places):
            return box
    return None


def _known(facts: Sequence[Facts]) -> list[tuple[Facts, tuple[Place, ...]]]:
    return [(known, known.places) for known in facts if known.places is not None]


def _draft(
    known: Facts,
    task: str,
    question: str,
    answer: str,
    system: str = EXPERT,
    *,
    concern: str | None = None,
    asked: Asked | None = None,
) -> Draft:
    words = tuple(word for place in known.places or () for word in (place.name, place.severity))
    keep = tuple(dict.fromkeys(word for word in words if word and word in f"{question} {answer}"))
    return Draft(
        paths=(known.path,),
        medium="image",
        task=task,
        asked=(asked or Asked(question=question, answer=answer, keep=keep),),
        tags={} if concern is None else {"concern": concern},
        fields={"system_prompt": system},
    )
