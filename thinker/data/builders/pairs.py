"""Pairs of rated media: which has the better quality, the first, the second, or neither."""

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
    drafts: list[Draft] = []
    for medium in ("video", "image"):
        rated = [known for known in facts if known.kind == medium and known.share is not None]
        if len(rated) < 2:
            continue
        wanted = len(rated) if pairing.num_pairs is None else pairing.num_pairs
        draw = draw_of(style.seed, "pair", medium)
        pairs: dict[frozenset[str], tuple[Facts, Facts]] = {}
        most = min(wanted, len(rated) * (len(rated) - 1) // 2)
        while len(pairs) < most:
            first, second = draw.sample(rated, 2)
            pairs.setdefault(frozenset((first.path, second.path)), (first, second))
        drafts += [_draft(*both, style, pairing) for both in pairs.values()]
    return drafts


def _draft(first: Facts, second: Facts, style: Style, pairing: Pairing) -> Draft:
    assert first.share is not None and second.share is not None
    difference = first.share - second.share
    right = 2 if abs(difference) < pairing.equal_below else 0 if difference > 0 else 1
    asked = Asked(
        question=style.word("pair", f"{first.path} {second.path}", medium=first.kind),
        answer=LETTERS[right],
        options=PAIR_OPTIONS,
        keep=("two",),
    )
    return Draft(
        paths=(first.path, second.path),
        medium=first.kind,
        task="choice",
        asked=(asked,),
        tags={"type": "pair"},
    )
