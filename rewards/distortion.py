"""Distortions: the parser of what impairs a video or picture and how strongly, and the reward of
exact matches.

In: a completion and the names that can be meant. Out: the type, behind its severity where one is
said ("noise", "severe noise"), or an `InvalidAnswer`. A completion names a distortion by its words;
of names inside of others the longest counts ("motion blur" is no "blur"). Whoever names two types
or two severities, or says only what it is not, has not answered, unless a last "It is …" decides.
One linear pass over the text, whatever the text holds.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rewards.answer import Answer, InvalidAnswer, locate_free, quote
from rewards.boxes import PICTURE_DISTORTIONS
from rewards.checks import check_columns, check_number

NONE = "none"
"""The name of what impairs nothing."""
_KNOWN = (
    # Stage 1 of VQA² (arXiv 2411.03795), spatial, then motion; names in brackets there stand alone.
    "compression artifact", "spatial blur", "motion blur", "noise", "overexposure",
    "underexposure", "low contrast", "high contrast", "oversaturation", "desaturation",
    "block effect", "flicker", "camera shake", "stuttering", "stalling",
    # The demo set.
    "blur", "blocking", "stutter", "frame drops", "shake", NONE,
    *PICTURE_DISTORTIONS,
)  # fmt: skip
DISTORTIONS = tuple(dict.fromkeys(_KNOWN))
"""The names that are known without being declared by a reference."""
SEVERITIES = ("slight", "moderate", "severe")
"""Thirds of a severity from 0 to 1, as records say them."""
SEVERITY_WORDS = (*SEVERITIES, "mild", "strong", "heavy", "extreme")
"""What counts as a severity before the name of a distortion; every word stands for itself."""

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*|[.!?\n]")
_ENDS = frozenset(".!?\n")
_NEGATIONS = frozenset({"not", "no", "never", "neither", "nor", "without"})
_NO_DISTORTION = (("no", "distortion"), ("no", "distortions"), ("undistorted",))
_VERDICTS = (("it", "is"), ("distortion", "is"), ("it's",))
# Words of a sentence, which are in no name: what holds one is a sentence about a distortion.
_OF_SENTENCES = frozenset(
    ("a", "an", "the", "this", "that", "it", "is", "are", "was", "has", "have", "there", "here")
    + ("and", "or", "but", "of", "in", "on", "to", "with", "i", "quality")
    + ("video", "videos", "image", "images", "picture", "clip")
)
MAX_NAME_WORDS = 4
"""Of a name that a reference declares; longer texts are sentences."""


@dataclass(frozen=True, kw_only=True)
class DistortionReference:
    """What the completions of a distortion question are compared with."""

    name: str | None
    """The right type in lower case, words apart by blanks; None where it is not known."""
    severity: str | None = None
    """One of `SEVERITY_WORDS`; None where the file says none, and then none is compared."""
    names: tuple[str, ...] = DISTORTIONS
    """What can be an answer: the known names, and the one that this reference declares."""

    @property
    def answer(self) -> str | None:
        """As an answer says it, "severe noise"."""
        return None if self.name is None else _said(self.name, self.severity)


def distortion_name(text: str) -> str:
    """What spellings of a name share: case, underscores, hyphens and white space ignored.

    >>> distortion_name("Low_Contrast"), distortion_name("block-effect")
    ('low contrast', 'block effect')
    """
    return " ".join(_WORD.findall(text.lower()))


def severity_word(severity: float) -> str:
    """One of `SEVERITIES`: equal thirds of 0..1, the upper end in the last.

    >>> [severity_word(s) for s in (0.0, 0.33, 0.34, 0.7, 1.0)]
    ['slight', 'slight', 'moderate', 'severe', 'severe']
    """
    if not 0 <= severity <= 1:
        raise ValueError(f"severity {severity!r}: expected a number from 0 to 1")
    return SEVERITIES[min(int(severity * 3 + 1e-9), 2)]


def split_distortion(answer: str) -> tuple[str, str | None]:
    """Type and severity of an answer.

    >>> split_distortion("severe noise"), split_distortion("noise")
    (('noise', 'severe'), ('noise', None))
    """
    first, _, rest = answer.partition(" ")
    return (rest, first) if rest and first in SEVERITY_WORDS else (answer, None)


def read_distortion(raw: str) -> DistortionReference:
    """The reference that a file's answer is: a name, with a severity or without, bare, in a
    sentence "It is severe noise.", or in tags. A name that is not known is declared by it.

    Raises ValueError with the reason where it is none of these.

    >>> read_distortion("It is severe gaussian noise.").answer
    'severe gaussian noise'
    """
    located = locate_free(raw)
    if isinstance(located, InvalidAnswer):
        raise ValueError(f"reference {quote(raw)}: {located.detail}")
    words = [word for word in _words(located.text) if word not in _ENDS]
    for verdict in _VERDICTS:
        if tuple(words[: len(verdict)]) == verdict:
            words = words[len(verdict) :]
    severity = words.pop(0) if len(words) > 1 and words[0] in SEVERITY_WORDS else None
    is_name = 0 < len(words) <= MAX_NAME_WORDS and not _OF_SENTENCES & set(words)
    if is_name and words[0] not in _NEGATIONS and words != ["undistorted"]:
        name = " ".join(words)
        names = DISTORTIONS if name in DISTORTIONS else (*DISTORTIONS, name)
        return DistortionReference(name=name, severity=None if name == NONE else severity,
                                   names=names)  # fmt: skip
    answer = parse_distortion(raw, DISTORTIONS)
    if isinstance(answer, InvalidAnswer):
        raise ValueError(
            f"reference {answer.detail}; expected a name such as 'noise', or a sentence such as "
            "'It is severe noise.'"
        )
    name, severity = split_distortion(answer.value)
    return DistortionReference(name=name, severity=severity)


def parse_distortion(
    completion: str, names: Iterable[str] = DISTORTIONS
) -> Answer[str] | InvalidAnswer:
    """The distortion that a completion names: in its one `<answer>` pair, else behind its
    reasoning.

    names: as `DistortionReference.names`. The value is the name, behind its severity if one is
    said.

    >>> parse_distortion("It is severe noise.").value
    'severe noise'
    >>> parse_distortion("<think>It smears.</think><answer>motion blur</answer>").value
    'motion blur'
    >>> parse_distortion("blur or noise").reason, parse_distortion("It is sharp.").reason
    ('several_options', 'no_option')
    """
    located = locate_free(completion)
    if isinstance(located, InvalidAnswer):
        return located
    words = _words(located.text)
    names = tuple(names)
    found = _scan(words, names)
    if len(found.names) > 1 or len(found.severities) > 1:
        verdict = _last_verdict(words)
        if verdict:
            decided = _scan(verdict, names)
            found = decided if decided.names else found
    shown = quote(located.text)
    if not found.names:
        what = "says what it is not" if found.is_negated else "names no distortion that is known"
        return InvalidAnswer(reason="no_option", detail=f"{shown} {what}")
    if len(found.names) > 1:
        both = " and ".join(found.names[:2])
        return InvalidAnswer(reason="several_options", detail=f"{shown} names {both}")
    if len(found.severities) > 1:
        both = " and ".join(found.severities[:2])
        return InvalidAnswer(reason="several_severities", detail=f"{shown} says {both}")
    severity = found.severities[0] if found.severities and found.names != [NONE] else None
    return Answer(
        value=_said(found.names[0], severity),
        text=located.text,
        reasoning=located.reasoning,
        well_formed=located.well_formed,
    )


def _said(name: str, severity: str | None) -> str:
    return name if severity is None else f"{severity} {name}"


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower().replace("’", "'").replace("_", " "))


@dataclass
class _Found:
    """What stands in a text, each once, in order."""

    names: list[str]
    """Types that are named and not negated."""
    severities: list[str]
    """Severities of the sentences about them."""
    is_negated: bool = False
    """Whether a type is named that is negated."""


def _scan(words: Sequence[str], names: Iterable[str]) -> _Found:
    """The names in the words, and the severities of the sentences that name one or speak of
    severity; none that is negated."""
    meant = {tuple(name.split()): name for name in names}
    meant |= dict.fromkeys(_NO_DISTORTION, NONE)
    lengths = sorted({len(name) for name in meant}, reverse=True)
    found = _Found([], [])
    for sentence in _sentences(words):
        severities, place, is_about = [], 0, "severity" in sentence
        while place < len(sentence):
            length = next((n for n in lengths if tuple(sentence[place : place + n]) in meant), 0)
            name = meant.get(tuple(sentence[place : place + length]))
            is_negated = _negated(sentence, place)
            if name == NONE and sentence[place + 1 : place + 2] == ["of"]:
                name = None  # "None of the frames"
            if name and is_negated:
                found.is_negated = True
            elif name:
                is_about = True
                found.names += [name] if name not in found.names else []
            elif sentence[place] in SEVERITY_WORDS and not is_negated:
                severities.append(sentence[place])
            place += max(length, 1)
        if is_about:
            found.severities += [w for w in severities if w not in found.severities]
    return found


def _sentences(words: Sequence[str]) -> list[list[str]]:
    """The words between the signs that end a sentence."""
    sentences: list[list[str]] = [[]]
    for word in words:
        if word in _ENDS:
            sentences.append([])
        else:
            sentences[-1].append(word)
    return sentences


def _negated(words: Sequence[str], place: int) -> bool:
    """Whether one of the three words before negates what stands here."""
    before = words[max(place - 3, 0) : place]
    return any(word in _NEGATIONS or word.endswith("n't") for word in before)


def _last_verdict(words: Sequence[str]) -> list[str]:
    """What follows the last "it is", in its sentence; empty where there is none."""
    for sentence in reversed(_sentences(words)):
        for place in reversed(range(len(sentence))):
            for verdict in _VERDICTS:
                if tuple(sentence[place : place + len(verdict)]) == verdict:
                    return sentence[place + len(verdict) :]
    return []


@dataclass(frozen=True, kw_only=True)
class DistortionConfig:
    """What a right severity is worth."""

    severity_part: float = 0.5
    """The part of the reward that the right severity earns, once the type is right; 0 to 1."""

    def __post_init__(self) -> None:
        check_number(
            "distortion.severity_part", self.severity_part, "from 0 to 1", lambda x: 0 <= x <= 1
        )


class DistortionReward:
    """1.0 for the right type, 0.0 for another, None for an invalid answer.

    Where the reference has a severity, the right type alone earns `1 - severity_part`; the severity
    of another type earns nothing.

    >>> known = DistortionReference(name="noise", severity="severe")
    >>> said = ["It is severe noise.", "noise", "severe blur", "sharp"]
    >>> DistortionReward()(said, ["q"] * 4, [None] * 4, reference=[known] * 4)
    [1.0, 0.5, 0.0, None]
    """

    name = "distortion"
    needs_perturbed = False
    tasks = ("distortion",)

    def __init__(self, config: DistortionConfig | None = None) -> None:
        self.config = config or DistortionConfig()

    def __call__(
        self,
        completions: Sequence[str],
        sample_id: Sequence[str],
        target: Sequence[float | None],
        *,
        reference: Sequence[DistortionReference],
        **columns: Any,
    ) -> list[float | None]:
        texts = {"completions": completions}
        check_columns(self.name, texts, sample_id=sample_id, target=target, reference=reference)
        return [self._judge(*row) for row in zip(completions, sample_id, reference, strict=True)]

    def _judge(self, completion: str, sample: str, reference: DistortionReference) -> float | None:
        if not isinstance(reference, DistortionReference) or reference.name is None:
            raise ValueError(
                f"reward {self.name!r}: got reference {reference!r} (sample {sample!r}); expected "
                "a DistortionReference with a name; leave questions without an answer out of "
                "training"
            )
        answer = parse_distortion(completion, reference.names)
        if isinstance(answer, InvalidAnswer):
            return None
        name, severity = split_distortion(answer.value)
        if name != reference.name:
            return 0.0
        is_whole = reference.severity in (None, severity)
        return 1.0 if is_whole else 1.0 - self.config.severity_part
