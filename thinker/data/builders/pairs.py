"""Pairs of rated media: which one is better, the first, the second or neither, and why."""

from collections.abc import Sequence
from dataclasses import dataclass

from rewards.choice import LETTERS
from thinker.data.builders.draft import Asked, Draft, Style
from thinker.data.builders.facts import Facts
from thinker.data.builders.wording import PAIR_OPTIONS, draw_of


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Which pairs are made."""

    num_pairs: int | None = None
    """In all; None: as many as there are rated media. Fewer where there are fewer pairs."""
    equal_below: float = 0.05
    """Two shares of the range of MOS count as equal where they differ by less."""

    def __post_init__(self) -> None:
        if self.num_pairs is not None and self.num_pairs < 1:
            raise ValueError(f"pairs is {self.num_pairs}, expected at least 1")
        if not 0 <= self.equal_below < 1:
            raise ValueError(f"equal-below is {self.equal_below:g}, expected 0 or more, below 1")


def pair(facts: Sequence[Facts], style: Style, pairing: Pairing) -> list[Draft]:
    """Pairs of two videos or two images, drawn with the seed, in an order that is drawn, too."""
    return [
        _draft(both, "choice", _chosen(both, style, pairing))
        for both in _pairs(facts, style, pairing)
    ]


def comparison(facts: Sequence[Facts], style: Style, pairing: Pairing) -> list[Draft]:
    """Pairs as those of `pair`, of media whose distortions are known: which is better, and why, in
    words."""
    known = [one for one in facts if one.distortion is not None]
    return [
        _draft(both, "open", _explained(both, style, pairing))
        for both in _pairs(known, style, pairing)
    ]


Pair = tuple[Facts, Facts]


def _pairs(facts: Sequence[Facts], style: Style, pairing: Pairing) -> list[Pair]:
    """The same for both kinds, where all distortions are known: a batch encodes them once."""
    found: list[Pair] = []
    for medium in ("video", "image"):
        rated = [known for known in facts if known.kind == medium and known.share is not None]
        if len(rated) < 2:
            continue
        wanted = len(rated) if pairing.num_pairs is None else pairing.num_pairs
        draw = draw_of(style.seed, "pair", medium)
        pairs: dict[frozenset[str], Pair] = {}
        most = min(wanted, len(rated) * (len(rated) - 1) // 2)
        while len(pairs) < most:
            first, second = draw.sample(rated, 2)
            pairs.setdefault(frozenset((first.path, second.path)), (first, second))
        found += pairs.values()
    return found


def _better(both: Pair, pairing: Pairing) -> int:
    """0, 1 or, where they are about equal, 2."""
    first, second = (known.share for known in both)
    assert first is not None and second is not None
    difference = first - second
    return 2 if abs(difference) < pairing.equal_below else 0 if difference > 0 else 1


def _chosen(both: Pair, style: Style, pairing: Pairing) -> Asked:
    return Asked(
        question=style.word("pair", _name(both), medium=both[0].kind),
        answer=LETTERS[_better(both, pairing)],
        options=PAIR_OPTIONS,
        keep=("two",),
    )


def _explained(both: Pair, style: Style, pairing: Pairing) -> Asked:
    verdict = PAIR_OPTIONS[_better(both, pairing)]
    seen = [_seen(known) for known in both]
    return Asked(
        question=style.word("comparison", _name(both), medium=both[0].kind),
        answer=f"{verdict}. The first shows {seen[0]}, the second {seen[1]}.",
        keep=("two", "first", "second", *(word for known in both for word in _words(known))),
    )


def _words(known: Facts) -> tuple[str, ...]:
    named = () if known.distortion == "none" else (known.severity, known.distortion)
    return tuple(word for word in named if word)


def _seen(known: Facts) -> str:
    """ "severe noise", "noise" where no severity is known, "no distortion"."""
    return " ".join(_words(known)) or "no distortion"


def _name(both: Pair) -> str:
    return f"{both[0].path} {both[1].path}"


def _draft(both: Pair, task: str, asked: Asked) -> Draft:
    return Draft(
        paths=(both[0].path, both[1].path),
        medium=both[0].kind,
        task=task,
        asked=(asked,),
        tags={"type": "pair"},
    )
