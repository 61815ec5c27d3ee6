"""The scale of the labels of a data set, and how it maps to the answer scale."""

from dataclasses import dataclass

from pydantic import FiniteFloat

from thinker.data.examples import is_finite_number

ANSWER_MIN, ANSWER_MAX = 1.0, 5.0  # the scale the prompt asks for
# LSVQ's training labels are MOS/20 of a MOS in 0..100, so identity labels start at 0, not at 1.
IDENTITY_MIN, IDENTITY_MAX = 0.0, 5.0
MAPPINGS = ("linear", "identity")


@dataclass(frozen=True, kw_only=True)
class MosScale:
    """The scale the labels of a data set are on, and how it maps to the answer scale.

    `linear` maps the declared range [min, max] to 1..5: on 0..100, a MOS of 67.75 is
    1 + 4 * 67.75 / 100 = 3.71 on the answer scale. `identity` says that labels already live on the
    answer scale (LSVQ's training labels, MOS/20 in 0..5): they are kept, also below 1.
    """

    min: FiniteFloat
    """Lowest MOS that the scale can express, which is not the lowest observed."""
    max: FiniteFloat
    """Highest MOS that the scale can express."""
    mapping: str
    """How it maps to the answer scale, "linear" or "identity"."""

    def __post_init__(self) -> None:
        given = f"mos_scale min {self.min!r}, max {self.max!r}, mapping {self.mapping!r}"
        if not all(is_finite_number(value) for value in (self.min, self.max)):
            raise ValueError(f"{given}: expected finite numbers for min and max")
        if not self.min < self.max:
            raise ValueError(f"{given}: expected min < max")
        if self.mapping not in MAPPINGS:
            raise ValueError(f"{given}: expected mapping to be one of {', '.join(MAPPINGS)}")
        if self.mapping == "identity" and not IDENTITY_MIN <= self.min < self.max <= IDENTITY_MAX:
            raise ValueError(
                f"{given}: identity is for labels on the answer scale, expected a range inside "
                f"{IDENTITY_MIN:g}..{IDENTITY_MAX:g}; use mapping linear for any other scale"
            )

    def to_answer(self, mos: float) -> float:
        """`mos` on the answer scale. Raises ValueError outside [min, max], and for NaN."""
        if not self.min <= mos <= self.max:
            raise ValueError(
                f"mos {mos!r} is outside the declared range {self.min:g}..{self.max:g}"
            )
        if self.mapping == "identity":
            return mos
        return ANSWER_MIN + (ANSWER_MAX - ANSWER_MIN) * ((mos - self.min) / (self.max - self.min))

    def from_answer(self, score: float) -> float:
        """Inverse of `to_answer`; a score outside 1..5 is extrapolated, never clipped."""
        if self.mapping == "identity":
            return score
        unit = (score - ANSWER_MIN) / (ANSWER_MAX - ANSWER_MIN)
        return self.min + unit * (self.max - self.min)
