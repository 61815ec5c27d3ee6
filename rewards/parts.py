"""The four parts of a detailed description: what the picture shows, each distortion with its box,
the key distortions, the level (ViDA, MIPI challenge, ICCV 2025).

In: a completion. Out: `DescriptionParts`, which says what is missing. Line breaks separate the
parts; trailing ones, empty lines and the marks of boxes change nothing.
"""

import re
from dataclasses import dataclass
from typing import Literal

from rewards.answer import Answer
from rewards.boxes import PICTURE_DISTORTIONS, FaultyBox, LabelledBox, parse_boxes
from rewards.describe import VERDICT, final_level, parse_description

MissingPart = Literal["missing_content", "missing_distortions", "missing_key", "missing_level"]

_KEY = re.compile(
    r"\b(?:key|main|major|dominant|primary|most (?:significant|important|severe|noticeable))\b"
    r"[^.\n]{0,60}\bdistortions?\b",
    re.IGNORECASE,
)
_OCCURRENCE = re.compile(r"there (?:is|are)\b|\bno distortions?\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?]\s")
_BULLET = " \t*#-•"


@dataclass(frozen=True, kw_only=True)
class PlacedText:
    """A part that names distortions, and where they are."""

    text: str
    """As it is written, box marks too."""
    boxes: tuple[LabelledBox, ...] = ()
    """Those that can be used, in thousandths of the sides; repetitions too."""
    faults: tuple[FaultyBox, ...] = ()
    """Those that cannot."""


@dataclass(frozen=True, kw_only=True)
class DescriptionParts:
    """What a description consists of; None for a part that is not there."""

    content: str | None
    """What the picture shows."""
    distortions: PlacedText | None
    """Every occurrence; without boxes where there is no distortion."""
    key: PlacedText | None
    """The paragraph of the key distortions, and the boxes of its first sentence: what follows may
    name others."""
    level: str | None
    """Worst "bad", best "excellent"."""

    @property
    def missing(self) -> tuple[MissingPart, ...]:
        """A reason for each part that is not there, in the order of the parts."""
        reasons: tuple[tuple[MissingPart, object], ...] = (
            ("missing_content", self.content),
            ("missing_distortions", self.distortions),
            ("missing_key", self.key),
            ("missing_level", self.level),
        )
        return tuple(reason for reason, part in reasons if part is None)


def parse_parts(
    completion: str, names: tuple[str, ...] | None = PICTURE_DISTORTIONS
) -> DescriptionParts:
    """The parts of a description, whichever of them it has.

    names: the classes of distortion that can be meant (`rewards.boxes.parse_boxes`). The level is
    that of the last verdict; what stands before it is sorted by its words: a line that names key
    distortions, lines that say that there is something or have a box, and the lines before them. Of
    three or more lines that say none of that, the first is the content and the last the key.

    >>> parts = parse_parts("A cat.\\nThere is one severe noise (1,2),(30,40).\\n"
    ...     "The key distortion is severe noise (1,2),(30,40).\\nThus, the quality of the image is "
    ...     "poor.\\n")
    >>> parts.content, parts.key.boxes[0].box, parts.level, parts.missing
    ('A cat.', (1.0, 2.0, 30.0, 40.0), 'poor', ())
    >>> parse_parts("A cat.\\nThere is no distortion in the image.").missing
    ('missing_key', 'missing_level')
    """
    answer = parse_description(completion)
    text = answer.value if isinstance(answer, Answer) else ""
    body, level = _verdict(text.replace("<|im_end|>", ""))
    lines = [line.strip() for line in body.splitlines() if line.strip(_BULLET)]
    content, distortions, key = _sorted(lines, names)
    return DescriptionParts(
        content="\n".join(content) or None,
        distortions=_placed("\n".join(distortions), names),
        key=_placed("\n".join(key), names, first_sentence=True),
        level=level,
    )


def _verdict(text: str) -> tuple[str, str | None]:
    """(what stands before the sentence of the verdict, the level)."""
    *_, last = [None, *VERDICT.finditer(text)]
    if last is None:
        body, _, line = text.rstrip().rpartition("\n")
        level = final_level(line)  # a level word alone
        return (text, None) if level is None else (body, level)
    before = text[: last.start()]
    ends = [match.end() for match in _SENTENCE_END.finditer(before)]
    start = max([0, before.rfind("\n") + 1, *ends])
    return text[:start], final_level(text)


def _sorted(
    lines: list[str], names: tuple[str, ...] | None
) -> tuple[list[str], list[str], list[str]]:
    """The lines of content, distortions and key distortions."""
    keys = [place for place, line in enumerate(lines) if _KEY.search(line)]
    found = [
        place
        for place, line in enumerate(lines)
        if place not in keys and (_OCCURRENCE.match(line.lstrip(_BULLET)) or _has_box(line, names))
    ]
    key = keys[-1] if keys else _last_paragraph(lines, found)
    end = len(lines) if key is None else key
    before = [place for place in found if place < end]
    first = before[0] if before else min(1, end)
    return lines[:first], lines[first:end], [] if key is None else lines[key:]


def _last_paragraph(lines: list[str], found: list[int]) -> int | None:
    """Where the key distortions stand that no line calls so: the last line, behind another that
    says what there is, or the third at least."""
    last = len(lines) - 1
    if not found:
        return last if last >= 2 else None
    begins = _OCCURRENCE.match(lines[last].lstrip(_BULLET)) if lines else None
    return last if found[0] < last and not begins else None


def _has_box(line: str, names: tuple[str, ...] | None) -> bool:
    answer = parse_boxes(line, names)
    if isinstance(answer, Answer):
        return bool(answer.value.boxes or answer.value.faults)
    return answer.reason not in ("no_box", "no_answer", "broken_tags")


def _placed(
    text: str, names: tuple[str, ...] | None, *, first_sentence: bool = False
) -> PlacedText | None:
    if not text:
        return None
    end = _SENTENCE_END.search(text) if first_sentence else None
    answer = parse_boxes(text if end is None else text[: end.start() + 1], names)
    if isinstance(answer, Answer):
        return PlacedText(text=text, boxes=answer.value.boxes, faults=answer.value.faults)
    if answer.reason in ("no_box", "no_answer", "broken_tags"):
        return PlacedText(text=text)
    fault = FaultyBox(reason=answer.reason, detail=answer.detail)  # type: ignore[arg-type]
    return PlacedText(text=text, faults=(fault,))
