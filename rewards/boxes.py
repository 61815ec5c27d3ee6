"""Boxes: the parser of what impairs a picture and where, and the reward of matched boxes.

In: a completion that lists distortions with boxes. Out: `Boxes`, what could be read and what is
wrong with the rest, or an `InvalidAnswer`. The forms that policies write are read alike, with their
marks or without (a tokenizer may drop them as special tokens):

- ViDA (Qwen2-VL): `Noise:\\n<|object_ref_start|>Severe noise<|object_ref_end|><|box_start|>(10,20),
  (300,400)<|box_end|>`, any number of boxes behind a reference, on one line or many;
- InternVL: `<ref>severe noise</ref><box>[[10, 20, 300, 400]]</box>`;
- Qwen2.5-VL: JSON, `[{"bbox_2d": [10, 20, 300, 400], "label": "severe noise"}]`.

A box is left, top, right and bottom. Its unit is the caller's: thousandths of the picture's sides
unless `size` says otherwise. Every step is one linear pass over the text, whatever the text holds.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from scipy.optimize import linear_sum_assignment

from rewards.answer import Answer, InvalidAnswer, locate_free, quote
from rewards.checks import check_columns

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""

Span = tuple[int, int]
"""Characters of a completion, from the first to behind the last."""

PICTURE_DISTORTIONS = (
    "low clarity", "underexposure", "edge aliasing effect", "blocking artifacts", "overexposure",
    "noise", "out of focus blur", "meaningless solid color", "motion blur", "edge ringing effect",
)  # fmt: skip
"""The classes of ViDA-UGC (arXiv 2508.12605)."""
BOX_SEVERITIES = ("minor", "moderate", "severe")
THOUSANDTHS = (1000.0, 1000.0)

Fault = Literal[
    "cut_off",  # a box that ends with the completion
    "not_finite",  # NaN or infinity for a coordinate
    "outside",  # a coordinate below 0 or beyond the size
    "swapped",  # the right side is not right of the left one, or the bottom not below the top
    "no_class",  # nothing says what the box is of
    "unknown_class",  # what it is of is no known distortion
]

_SEVERITY_OF = {
    "severe": "severe",
    "moderate": "moderate",
    "minor": "minor",
    "slight": "minor",
    "mild": "minor",
}
_SPELLINGS = {"blocking artifact": "blocking artifacts", "low sharpness": "low clarity"}
_NUMBER = r"\s{0,9}(-?\d{1,12}(?:\.\d{1,12})?|-?nan|-?inf(?:inity)?)\s{0,9}"
_BOX = re.compile(
    rf"\({_NUMBER},{_NUMBER}\)\s{{0,9}},?\s{{0,9}}\({_NUMBER},{_NUMBER}\)"
    rf"|\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]",
    re.IGNORECASE,
)
_OPEN_BOX = re.compile(r"[(\[][\s\d.,)]{0,60}\(?[\s\d.,]{0,40}\Z")
MOST_CLASS_WORDS = 6
"""Words of a class that a sentence ends in; those of ViDA-UGC have four at most."""
MOST_REST = 200
"""Characters at the end of a completion in which a box that is cut off begins."""
_BETWEEN = re.compile(r"(?:[\s,;&\[\]]|\band\b){0,80}")
_REF_OPEN, _REF_CLOSE = "\x02", "\x03"
_MARKS = {
    mark: sign.rjust(len(mark)) for mark, sign in {
        "<|box_start|>": "", "<|box_end|>": "", "<box>": "", "</box>": "",
        "<|object_ref_start|>": _REF_OPEN, "<ref>": _REF_OPEN,
        "<|object_ref_end|>": _REF_CLOSE, "</ref>": _REF_CLOSE,
        "<|im_end|>": "",
    }.items()
}  # fmt: skip
_WORD = re.compile(r"[^\W_]+")
_NOTHING = re.compile(
    r"\b(?:no|not any|without(?: any)?) (?:(?!other|further|more|additional)\w{1,20} )?"
    r"distortions?\b"
    r"|\A(?:```(?:json)?)?\s{0,9}\[\s{0,9}\]\s{0,9}(?:```)?\Z",
    re.IGNORECASE,
)
_OBJECT = re.compile(r"\{[^{}]{0,1000}\}")
_NEGATIONS = frozenset({"no", "not", "without", "never"})
# Words between a class and its box: "noise is located at", "noise in the region".
_LINKS = frozenset([
    "is", "are", "at", "in", "within", "inside", "around", "of", "by", "on", "the", "this",
    "region", "area", "box", "located", "found", "seen",
])  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LabelledBox:
    """A place and what is there."""

    name: str | None
    """The class in lower case; None where boxes have none (a referring question)."""
    box: Box
    """In the unit of the answer."""
    severity: str | None = None
    """One of `BOX_SEVERITIES`; None where none is said."""
    spans: tuple[Span, ...] = field(default=(), compare=False, repr=False)
    """Where the completion says it: its corners, and before that its label where it has one."""


@dataclass(frozen=True, kw_only=True)
class FaultyBox:
    """A box that counts as a prediction which fits nothing."""

    reason: Fault
    """For counting."""
    detail: str
    """For a person."""


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """What a completion says of places."""

    boxes: tuple[LabelledBox, ...] = ()
    """Those that can be read, in the order in which they are written, repetitions too."""
    faults: tuple[FaultyBox, ...] = ()
    """Those that cannot."""


def box_class(label: str, names: Iterable[str] | None) -> tuple[str | None, str | None]:
    """(class, severity) of a label; None for what is not said or not known. Case, underscores,
    hyphens and the plural of "blocking artifacts" are ignored. A sentence that ends in a known
    class is a label of it, with or without words such as "at" behind.

    names: what is known; None: whatever is said is a class.

    >>> box_class("Moderate low clarity", PICTURE_DISTORTIONS)
    ('low clarity', 'moderate')
    >>> box_class("Slight Motion-Blur", PICTURE_DISTORTIONS), box_class("a cat", ("noise",))
    (('motion blur', 'minor'), (None, None))
    >>> box_class("There is one severe noise in the region", PICTURE_DISTORTIONS)
    ('noise', 'severe')
    """
    words = _WORD.findall(label.lower().replace("_", " "))
    severities = {_SEVERITY_OF[word] for word in words if word in _SEVERITY_OF}
    text = " ".join(word for word in words if word not in _SEVERITY_OF)
    text = _SPELLINGS.get(text, text)
    if names is None:
        name = text or None
    else:
        known = {_plain(one): one for one in names}
        name = known.get(text)
        if name is None:
            name, severities = _ending(words, known)
    return name, severities.pop() if name is not None and len(severities) == 1 else None


def _ending(words: list[str], known: dict[str, str]) -> tuple[str | None, set[str]]:
    """The class that a sentence ends in ("There is one severe noise"), and the severity before it:
    what stands before a box where its marks are gone."""
    while words and words[-1] in _LINKS:
        words = words[:-1]
    for length in range(min(len(words), MOST_CLASS_WORDS), 0, -1):
        text = " ".join(words[-length:])
        name = known.get(_SPELLINGS.get(text, text))
        if name is not None:
            before = words[-length - 1 : -length]
            if _NEGATIONS & set(words[-length - 3 : -length]):
                break
            return name, {_SEVERITY_OF[word] for word in before if word in _SEVERITY_OF}
    return None, set()


def parse_boxes(
    completion: str,
    names: Sequence[str] | None = PICTURE_DISTORTIONS,
    *,
    size: tuple[float, float] = THOUSANDTHS,
) -> Answer[Boxes] | InvalidAnswer:
    """The boxes of a completion: of its one `<answer>` pair, else behind its reasoning.

    names: the classes that can be meant; none at all where boxes need no class, None where any
    label is one. size: the largest x and y. A completion without boxes is valid where it says that
    there is no distortion. A box that cannot be used is one of `faults` where another can, and else
    the reason why the whole answer is invalid.

    >>> parse_boxes("Noise: Severe noise(10,20),(300,400)").value.boxes
    (LabelledBox(name='noise', box=(10.0, 20.0, 300.0, 400.0), severity='severe'),)
    >>> parse_boxes("No distortion affects this region.").value
    Boxes(boxes=(), faults=())
    >>> parse_boxes("Noise: (300,400),(10,20)").reason, parse_boxes("It is noisy.").reason
    ('swapped', 'no_box')
    """
    located = locate_free(completion)
    if isinstance(located, InvalidAnswer):
        return located
    found: list[LabelledBox] = []
    faults: list[FaultyBox] = []
    needs_class = names is None or len(names) > 0
    listed, rest = _labelled(located.text)
    offset = completion.rfind(located.text)
    for label, box, spans in listed:
        name, severity = box_class(label or "", names) if needs_class else (None, None)
        fault = _fault(box, size) or (_class_fault(label, name) if needs_class else None)
        if fault is None:
            placed = tuple((offset + start, offset + end) for start, end in spans if offset >= 0)
            found.append(LabelledBox(name=name, box=box, severity=severity, spans=placed))
        else:
            faults.append(fault)
    if _OPEN_BOX.search(rest[-MOST_REST:]):
        faults.append(FaultyBox(reason="cut_off", detail=quote(located.text[-40:])))
    if not found and faults:
        return InvalidAnswer(reason=faults[0].reason, detail=faults[0].detail)
    if not found and (not _NOTHING.search(located.text) or _names_one(located.text, names)):
        return InvalidAnswer(reason="no_box", detail=f"{quote(located.text)} holds no box")
    return Answer(
        value=Boxes(boxes=tuple(found), faults=tuple(faults)),
        text=located.text,
        reasoning=located.reasoning,
        well_formed=located.well_formed,
    )


def _names_one(text: str, names: Sequence[str] | None) -> bool:
    """Whether a text names a class, as one that says that there is none does not."""
    words = f" {_plain(text)} "
    return any(f" {_plain(name)} " in words for name in names or ())


def _plain(text: str) -> str:
    return " ".join(_WORD.findall(text.lower()))


Labelled = list[tuple[str | None, Box, tuple[Span, ...]]]
"""Boxes, each with the words that it is labelled by, as they are written, and where they stand."""


def _labelled(text: str) -> tuple[Labelled, str]:
    """Every box, and what stands behind the last one, where another may begin and not end."""
    found: Labelled = []
    if "bbox_2d" in text:
        found, text = _json_boxes(text)
    text = _unmarked(text)
    label: str | None = None
    said: tuple[Span, ...] = ()
    end = 0
    for match in _BOX.finditer(text):
        between = text[end : match.start()]
        if not (end and _BETWEEN.fullmatch(between)):
            label = _label(between)
            start = end + between.rfind(label or "")
            said = ((start, start + len(label)),) if label else ()
        end = match.end()
        left, top, right, bottom = (float(n) for n in match.groups() if n is not None)
        found.append((label, (left, top, right, bottom), (*said, match.span())))
    return found, text[end:]


def _unmarked(text: str) -> str:
    """The text with blanks for marks, as long as before, so that places stay what they are."""
    for mark, sign in _MARKS.items():
        text = text.replace(mark, sign)
    return text


def _label(before: str) -> str | None:
    """What the text before a box says that it is of: the last reference, else the end of the last
    line that says anything, behind its colon, or before it where nothing follows."""
    head, closed, _ = before.rpartition(_REF_CLOSE)
    if closed:
        return head.rpartition(_REF_OPEN)[2].strip()
    lines = [line.strip(" \t[,;.-*") for line in before.split("\n")]
    last = next((line for line in reversed(lines) if line), "")
    head, colon, tail = last.rpartition(":")
    return (tail.strip() or head.strip() if colon else last) or None


def _json_boxes(text: str) -> tuple[Labelled, str]:
    """The boxes of JSON objects, and the text with blanks in their place; what is left of one that
    is not closed becomes the beginning of a box."""
    listed: Labelled = []

    def take(match: re.Match[str]) -> str:
        entry = _loaded(match[0])
        box = entry.get("bbox_2d")
        if not isinstance(box, list) or len(box) != 4:
            return match[0]
        left, top, right, bottom = (float(side) if _is_number(side) else math.nan for side in box)
        label = entry.get("label")
        label = label if isinstance(label, str) and label.strip() else None
        listed.append((label, (left, top, right, bottom), tuple(_json_spans(match, label))))
        return " " * len(match[0])

    rest = _OBJECT.sub(take, text)
    head, brace, tail = rest.rpartition("{")
    if brace and "}" not in tail and "bbox_2d" in tail:
        rest = head.ljust(len(rest) - 1) + "["
    return listed, rest


def _loaded(text: str) -> dict[str, Any]:
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}


def _json_spans(match: re.Match[str], label: str | None) -> Iterator[Span]:
    """Where an object says its label and its corners."""
    for piece in (label, match[0][match[0].find("[") : match[0].find("]") + 1]):
        place = match[0].find(piece) if piece else -1
        if piece and place >= 0:
            yield match.start() + place, match.start() + place + len(piece)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12


def _fault(box: Box, size: tuple[float, float]) -> FaultyBox | None:
    shown = f"({', '.join(f'{side:g}' for side in box)})"
    if not all(map(math.isfinite, box)):
        return FaultyBox(reason="not_finite", detail=shown)
    left, top, right, bottom = box
    width, height = size
    if min(box) < 0 or max(left, right) > width or max(top, bottom) > height:
        return FaultyBox(reason="outside", detail=f"{shown} is not within {width:g} x {height:g}")
    if left >= right or top >= bottom:
        return FaultyBox(
            reason="swapped", detail=f"{shown}: expected left < right and top < bottom"
        )
    return None


def _class_fault(label: str | None, name: str | None) -> FaultyBox | None:
    if name is not None:
        return None
    if label is None:
        return FaultyBox(reason="no_class", detail="a box without a label")
    return FaultyBox(reason="unknown_class", detail=quote(label))


def box_iou(first: Box, second: Box) -> float:
    """Intersection over union of continuous boxes, 0..1; 0 where one is empty or swapped.

    >>> box_iou((0, 0, 10, 10), (5, 0, 15, 10))
    0.3333333333333333
    """
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (first, second) if b[0] < b[2] and b[1] < b[3]]
    if width <= 0 or height <= 0 or len(areas) < 2:
        return 0.0
    shared = width * height
    return shared / (sum(areas) - shared)


@dataclass(frozen=True, kw_only=True)
class BoxesReference:
    """What the completions of a question about places are compared with."""

    boxes: tuple[LabelledBox, ...] | None
    """All that are there; None where it is not known."""
    names: tuple[str, ...] = PICTURE_DISTORTIONS
    """The classes that can be meant; none where boxes need no class."""

    @property
    def answer(self) -> tuple[LabelledBox, ...] | None:
        """What is right, as tasks name it."""
        return self.boxes


def read_boxes(raw: str) -> BoxesReference:
    """The reference that a file's answer is; a class that is not known is declared by it, and boxes
    without any label need no class.

    Raises ValueError with the reason where not every box can be used.

    >>> read_boxes("Banding: Severe banding(10,20),(300,400)").boxes[0].name
    'banding'
    """
    fault: InvalidAnswer | FaultyBox | None = None
    for names in (None, ()):
        answer = parse_boxes(raw, names)
        if isinstance(answer, Answer) and not answer.value.faults:
            boxes = answer.value.boxes
            declared = [one.name for one in boxes if one.name is not None]
            known = dict.fromkeys((*PICTURE_DISTORTIONS, *declared))
            return BoxesReference(boxes=boxes, names=() if names == () else tuple(known))
        fault = fault or (answer if isinstance(answer, InvalidAnswer) else answer.value.faults[0])
    assert fault is not None
    raise ValueError(
        f"reference {quote(raw)}: {fault.reason}, {fault.detail}; expected boxes such as 'Noise: "
        "(10,20),(300,400)' in thousandths of the sides"
    )


@dataclass(frozen=True, kw_only=True)
class BoxesConfig:
    """How well boxes have to fit."""

    thresholds: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """Intersections over union from which on two boxes match, each above 0, at most 1. The reward
    is the mean over them, so that a box that fits better earns more."""

    def __post_init__(self) -> None:
        if not self.thresholds or not all(0 < t <= 1 for t in self.thresholds):
            raise ValueError(
                f"boxes.thresholds: got {self.thresholds!r}; expected numbers above 0, at most 1; "
                "correct the config"
            )


def matched_f1(answer: Boxes, truth: Sequence[LabelledBox], thresholds: Sequence[float]) -> float:
    """The mean over thresholds of F1 = 2 · matched / (written + true), 0..1.

    A match is one to one, of equal classes, and the largest possible number is taken (Hungarian
    method). Everything that is written counts, also what cannot be read: many boxes, or one box
    many times, lower it. With nothing written and nothing true it is 1.

    >>> noise = LabelledBox(name="noise", box=(0.0, 0.0, 10.0, 10.0))
    >>> matched_f1(Boxes(boxes=(noise, noise)), [noise], (0.5,))
    0.6666666666666666
    """
    total = len(answer.boxes) + len(answer.faults) + len(truth)
    if total == 0:
        return 1.0
    overlaps = np.zeros((len(answer.boxes), len(truth)))
    for row, written in enumerate(answer.boxes):
        for column, true in enumerate(truth):
            if written.name == true.name:
                overlaps[row, column] = box_iou(written.box, true.box)
    matched = []
    for threshold in thresholds:
        fits = overlaps >= threshold
        matched.append(int(fits[linear_sum_assignment(fits, maximize=True)].sum()))
    return float(np.mean([2 * count / total for count in matched]))


class BoxesReward:
    """`matched_f1` of what is written and what is there; None for an invalid answer.

    >>> noise = LabelledBox(name="noise", box=(0.0, 0.0, 100.0, 100.0))
    >>> known = BoxesReference(boxes=(noise,))
    >>> said = ["Noise: (0,0),(100,100)", "Noise: (0,0),(100,50)", "Underexposure: (0,0),(100,100)"]
    >>> BoxesReward()(said, ["q"] * 3, [None] * 3, reference=[known] * 3)
    [1.0, 0.6, 0.0]
    """

    name = "boxes"
    needs_perturbed = False
    tasks = ("boxes",)

    def __init__(self, config: BoxesConfig | None = None) -> None:
        self.config = config or BoxesConfig()

    def __call__(
        self,
        completions: Sequence[str],
        sample_id: Sequence[str],
        target: Sequence[float | None],
        *,
        reference: Sequence[BoxesReference],
        **columns: Any,
    ) -> list[float | None]:
        texts = {"completions": completions}
        check_columns(self.name, texts, sample_id=sample_id, target=target, reference=reference)
        return [self._judge(*row) for row in zip(completions, sample_id, reference, strict=True)]

    def _judge(self, completion: str, sample: str, reference: BoxesReference) -> float | None:
        if not isinstance(reference, BoxesReference) or reference.boxes is None:
            raise ValueError(
                f"reward {self.name!r}: got reference {reference!r} (sample {sample!r}); expected "
                "a BoxesReference with boxes; leave questions without an answer out of training"
            )
        answer = parse_boxes(completion, reference.names)
        if isinstance(answer, InvalidAnswer):
            return None
        return matched_f1(answer.value, reference.boxes, self.config.thresholds)
