"""The conditions that a clip is made under: what happens to its pictures, and how they are coded.

A condition is a line of a YAML (`data_configs/reference_labels.yaml` holds the ladder that comes
with the package). Its steps come in this order, and each is left out where it is not named: blur,
noise, half resolution, the codec, back to full resolution, frames that are dropped, stalls.
"""

import dataclasses

from rewards.distortion import SEVERITY_WORDS

CODECS = ("libx264", "libx265", "libvpx-vp9", "libsvtav1")
"""Encoders that PyAV's wheels carry, which `codec.py` knows how to keep to one thread."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Condition:
    """One way to degrade a clip. Without any step it is the pristine clip itself."""

    name: str
    """Its name in files and tables: letters, digits, `_`, such as "x264_38"."""
    word: str = "none"
    """The distortion that a lesson calls it ("compression"); conditions that look alike share one.
    "none": nothing is wrong with it."""
    severity: str | None = None
    """How strong it is among those of its word, one of `SEVERITY_WORDS`; None: not said."""
    blur_px: float = 0.0
    """Standard deviation of a Gaussian blur, in pixels of the clip."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise on luma, of 0..255, drawn anew for each frame."""
    half: bool = False
    """Whether the codec sees the clip at half its width and height."""
    encoder: str | None = None
    """One of `CODECS`; None: the clip is stored as nearly lossless H.264."""
    crf: int | None = None
    """The encoder's constant rate factor: higher is worse. x264 and x265 take 0..51, VP9 and AV1
    0..63. None only without an encoder."""
    drop_every: int = 0
    """Length of a cycle in frames; 0: no frame is dropped."""
    drop_frames: int = 0
    """How many frames of each cycle are dropped: the frame before them stays in their place."""
    num_stalls: int = 0
    """How often the clip stalls."""
    stall_seconds: float = 0.0
    """How long each time. The last frame stays and the clip then goes on where it would be by now,
    so that it keeps its length and every frame can be compared with the pristine one."""

    def __post_init__(self) -> None:
        if not self.name.isascii() or not self.name.replace("_", "").isalnum():
            raise ValueError(f"name {self.name!r}: expected ASCII letters, digits and _")
        if not self.word.strip():
            raise ValueError(f"condition {self.name}: word is empty")
        if self.severity is not None and self.severity not in SEVERITY_WORDS:
            raise ValueError(
                f"condition {self.name}: severity is {self.severity!r}, expected one of "
                f"{', '.join(SEVERITY_WORDS)}"
            )
        if self.encoder is not None and self.encoder not in CODECS:
            raise ValueError(f"encoder {self.encoder!r}: expected one of {', '.join(CODECS)}")
        if (self.encoder is None) != (self.crf is None):
            raise ValueError(f"condition {self.name}: give encoder and crf together")
        highest = 51 if self.encoder in ("libx264", "libx265") else 63
        if self.crf is not None and not 0 <= self.crf <= highest:
            raise ValueError(f"crf {self.crf} of {self.encoder}: expected 0 to {highest}")
        if min(self.blur_px, self.noise, self.stall_seconds, self.num_stalls) < 0:
            raise ValueError(f"condition {self.name}: expected no negative number")
        if self.drop_every and not 0 < self.drop_frames < self.drop_every:
            raise ValueError(
                f"condition {self.name}: drop_frames is {self.drop_frames}, expected 1 to "
                f"{self.drop_every - 1}, less than drop_every"
            )
        if bool(self.drop_frames) > bool(self.drop_every) or bool(self.num_stalls) != bool(
            self.stall_seconds
        ):
            raise ValueError(
                f"condition {self.name}: drop_every and drop_frames belong together, and so do "
                "num_stalls and stall_seconds"
            )

    @property
    def is_pristine(self) -> bool:
        """Whether nothing happens to the pictures."""
        return self == Condition(name=self.name, word=self.word, severity=self.severity)


def held_frames(condition: Condition, num_frames: int, fps: float, seed: int) -> list[int]:
    """The degraded frame that is shown at each instant, 0 to num_frames - 1, never a later one.

    Where drops and stalls begin follows from the seed. drop_every 4 and drop_frames 2 give, from
    their phase on, 0 1 1 1 4 5 5 5: of the frames 0 1 2 3 the last two are dropped. A stall never
    holds the first frame only, and stalls do not touch each other. Raises ValueError where they do
    not fit into the clip.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    shown = list(range(num_frames))
    if condition.drop_every:
        phase = int(rng.integers(condition.drop_every))
        kept = condition.drop_every - condition.drop_frames
        for i in shown:
            excess = (i + phase) % condition.drop_every - (kept - 1)
            shown[i] = max(i - max(excess, 0), 0)
    if condition.num_stalls:
        length = max(round(condition.stall_seconds * fps), 1)
        spare = num_frames - condition.num_stalls * (length + 1) - 1
        if spare < 0:
            raise ValueError(
                f"condition {condition.name}: {condition.num_stalls} stalls of "
                f"{condition.stall_seconds:g} s do not fit into {num_frames / fps:.2f} s"
            )
        gaps = np.sort(rng.integers(0, spare + 1, condition.num_stalls))
        for number, gap in enumerate(gaps.tolist()):
            first = 1 + gap + number * (length + 1)  # the frame that stays
            shown[first : first + length + 1] = [shown[first]] * (length + 1)
    return shown
