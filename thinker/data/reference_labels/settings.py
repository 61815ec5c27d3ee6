"""What `thinker make-labels` makes, as its YAML says it."""

from dataclasses import dataclass, field

from thinker.data.reference_labels.conditions import Condition
from thinker.data.scale import MosScale

LABELS = {
    "vmaf": MosScale(min=0, max=100, mapping="linear"),
    "ssim": MosScale(min=0, max=1, mapping="linear"),
    "xpsnr": MosScale(min=0, max=60, mapping="linear"),
}
"""The labels that can be measured and their scales. SSIM below 0 counts as 0, and XPSNR (dB), which
is infinite where nothing differs, as 60 from there on."""

SIDES = ("shot", "scene", "source")
MIN_PX = 32
"""Below it the coarsest of VMAF's four scales holds next to nothing."""


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """Who is held out."""

    by: str = "shot"
    """What stays on one side: every "shot", every "scene" or every "source"."""
    held_out: float = 0.2
    """Share of them that is evaluated on. 0: all is trained on; 1: nothing is."""
    held_out_scenes: tuple[str, ...] = ()
    """By scene: the names of those that are held out, in place of a share."""

    def __post_init__(self) -> None:
        if self.by not in SIDES:
            raise ValueError(f"by is {self.by!r}, expected one of {', '.join(SIDES)}")
        if not 0 <= self.held_out <= 1:
            raise ValueError(f"held_out is {self.held_out:g}, expected a share, 0 to 1")
        if self.held_out_scenes and self.by != "scene":
            raise ValueError("held_out_scenes are for by: scene")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A part of a source whose shots show one place, and which therefore stay on one side."""

    source: str
    """The source's path below the folder of sources."""
    name: str
    """Parts of one name are one scene, also of several sources; the empty name leaves out what lies
    in the part, such as credits."""
    start: float
    """Where it begins, in seconds; it ends where the next one of the source begins."""


@dataclass(frozen=True, kw_only=True)
class ReferenceLabelSettings:
    """All that decides what is made of the sources."""

    name: str
    """Name of the data set."""
    conditions: tuple[Condition, ...]
    """The ladder."""
    label: str = "vmaf"
    """What is measured: a key of `LABELS`. VMAF needs an ffmpeg with libvmaf."""
    window_seconds: float = 2.0
    """Length of a clip."""
    windows_per_shot: int = 4
    """At most so many windows are taken of a shot, evenly spread."""
    crop_px: int | None = None
    """Side of the square that is cut out of the source. None: the whole picture."""
    clip_px: int | None = None
    """Height that the picture, or its crop, is scaled to; the width follows. None: as it is."""
    crops_per_window: int = 1
    """How many crops are cut out of one window, none overlapping another."""
    conditions_per_crop: int | None = None
    """So many conditions are drawn for each crop. None: all."""
    min_motion: float = 0.0
    """Crops that move less are not taken: the mean absolute difference of luma (0..255) between
    successive frames, seen at a height of about 90 pixels."""
    min_detail: float = 0.0
    """Crops with less detail are not taken: the mean absolute difference of luma between
    neighbouring pixels, seen so."""
    shot_threshold: float = 0.35
    """How much of the colours has to change within one frame for a cut, 0 to 1."""
    flatten: bool = False
    """Whether labels are evened out: each tenth of the label's scale keeps at most as many clips as
    a tenth holds on the average; which of them go is drawn."""
    check_px: int | None = None
    """Height of the larger crops whose labels are compared with those of the clips."""
    check_share: float = 0.1
    """Share of the windows that are compared."""
    split: SplitSettings = field(default_factory=SplitSettings)
    """Which clips are held out."""
    scenes: tuple[Scene, ...] = ()
    """Which parts of the sources show one place. What they do not cover is a scene by shot."""
    seed: int = 0
    """Of every draw."""

    def __post_init__(self) -> None:
        names = [condition.name for condition in self.conditions]
        if not names or len(set(names)) != len(names):
            raise ValueError("conditions: expected at least one, and each name once")
        if self.label not in LABELS:
            raise ValueError(f"label is {self.label!r}, expected one of {', '.join(LABELS)}")
        if self.window_seconds <= 0 or self.windows_per_shot < 1 or self.crops_per_window < 1:
            raise ValueError(
                f"window_seconds {self.window_seconds:g}, windows_per_shot "
                f"{self.windows_per_shot}, crops_per_window {self.crops_per_window}: expected "
                "numbers above 0"
            )
        for key in ("crop_px", "clip_px", "check_px"):
            value = getattr(self, key)
            if value is not None and (value < MIN_PX or value % 2):
                raise ValueError(f"{key} is {value}, expected an even number from {MIN_PX} on")
        if self.crop_px is None and (self.crops_per_window > 1 or self.check_px):
            raise ValueError("crops_per_window above 1 and check_px need crop_px")
        if not 1 <= (self.conditions_per_crop or 1) <= len(names):
            raise ValueError(
                f"conditions_per_crop is {self.conditions_per_crop}, expected 1 to {len(names)}"
            )
        if not 0 < self.check_share <= 1 or not 0 < self.shot_threshold < 1:
            raise ValueError(
                f"check_share {self.check_share:g} and shot_threshold {self.shot_threshold:g}: "
                "expected shares above 0"
            )

    @property
    def scale(self) -> MosScale:
        """The scale of the label."""
        return LABELS[self.label]
