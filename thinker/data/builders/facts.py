"""What is known of a medium, and the level words of a set."""

from collections.abc import Mapping
from dataclasses import dataclass

from thinker.tasks.level import LEVELS, VQA2_WORDS

MOTION_DISTORTIONS = frozenset(
    ["flicker", "camera shake", "stuttering", "stalling", "stutter", "frame drops", "shake"]
)
"""Seen in consecutive frames only; all other distortions are spatial."""


@dataclass(frozen=True, kw_only=True)
class Depiction:
    """What an expert says of one attribute of the quality."""

    attribute: str
    """What it is about, "sharpness"; empty where only a text is given."""
    degree: str
    """How it is, "poor"; empty where only a text is given."""
    time: tuple[float, float] | None
    """Where it holds, in seconds; None: everywhere."""
    text: str | None
    """The whole depiction, in sentences."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A distortion of a part of a picture."""

    name: str
    """The type, in lower case."""
    severity: str | None
    """One of `rewards.boxes.BOX_SEVERITIES`."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom, in thousandths of the picture's sides."""
    position: str = ""
    """Where it is, in words, "upper left"."""
    manifestation: str = ""
    """How it looks, in words."""
    impact: str = ""
    """What it does to a viewer, in words."""
    importance: float | None = None
    """How much it counts for the whole, among those of its picture."""

    @property
    def label(self) -> str:
        """Type behind its severity, where that is known: "severe noise"."""
        return self.name if self.severity is None else f"{self.severity} {self.name}"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What all sources together say of one medium."""

    path: str
    """As the sources name it."""
    kind: str
    """"video" or "image"."""
    share: float | None = None
    """The MOS as a share of its range, 0 worst, 1 best."""
    level: str | None = None
    """The word of that share."""
    distortion: str | None = None
    """The main distortion; "none" where nothing impairs it."""
    severity: str | None = None
    """Its severity, in a word."""
    stalls: tuple[tuple[float, float], ...] | None = None
    """Start and end of each stall in seconds; empty where it plays smoothly, None: not known."""
    depictions: tuple[Depiction, ...] = ()
    """In the order of their file."""
    places: tuple[Place, ...] | None = None
    """The local distortions of a picture, empty where it has none; None: not known."""
    size: tuple[int, int] | None = None
    """Width and height in pixels of the picture whose pixels their boxes were stated in."""

    def named(self, *, with_severity: bool) -> str | None:
        """The main distortion, "noise", or behind its severity where that is wanted and known."""
        if not with_severity or self.severity is None:
            return self.distortion
        return f"{self.severity} {self.distortion}"

    @property
    def concern(self) -> str | None:
        """What its distortion impairs: "spatial", "motion", "none"."""
        if self.distortion in (None, "none"):
            return self.distortion
        return "motion" if self.distortion in MOTION_DISTORTIONS else "spatial"


@dataclass(frozen=True, kw_only=True)
class LevelRule:
    """How MOS become level words."""

    range: tuple[float, float] | None
    """The lowest and the highest MOS that there can be; None: the lowest and highest of the set, as
    VQA² has it."""
    words: tuple[str, ...] = LEVELS
    """Five words, worst first."""

    def __post_init__(self) -> None:
        if len(self.words) != 5 or len(set(self.words)) != 5 or not all(self.words):
            raise ValueError(f"level words {', '.join(self.words)}: expected five different words")
        known = (*LEVELS, *VQA2_WORDS)
        if not set(self.words) <= set(known):
            raise ValueError(
                f"level words {', '.join(self.words)}: task level reads "
                f"{', '.join(dict.fromkeys(known))}; take five of these, worst first"
            )
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"scale {self.range[0]:g}:{self.range[1]:g}: expected min < max")

    def shares(self, mos: Mapping[str, float]) -> dict[str, float]:
        """Each MOS, by path, as a share of the range, 0..1.

        Without a declared range, 20, 50, 80 are 0, .5, 1. Raises ValueError for MOS outside of it,
        and for a set of equal MOS.
        """
        values = mos.values()
        low, high = self.range or (min(values), max(values))
        if not low < high:
            raise ValueError(
                f"all MOS of the set are {low:g}; declare their range, --scale min:max"
            )
        outside = [
            f"{path} has {value:g}" for path, value in mos.items() if not low <= value <= high
        ]
        if outside:
            raise ValueError(
                f"{len(outside)} MOS are outside the declared range {low:g}:{high:g} (--scale): "
                f"{', '.join(outside[:5])}{' …' if len(outside) > 5 else ''}"
            )
        return {path: (value - low) / (high - low) for path, value in mos.items()}

    def word(self, share: float) -> str:
        """The word of one of five equal bins; the maximum belongs to the fifth.

        In VQA²'s published files the maximum of a set became a sixth level.
        """
        # 1e-9 keeps shares such as .6 in the upper bin despite binary rounding.
        return self.words[min(int(5 * share + 1e-9), 4)]
