"""Scans of the sources → the windows that clips are made of, their crops, conditions and sides.

Everything follows from the settings, the sources and the seed; nothing is decoded.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from thinker.data.reference_labels.scan import CELL, Scan, reduction
from thinker.data.reference_labels.settings import ReferenceLabelSettings
from thinker.data.reference_labels.shots import find_shots
from thinker.utils.names import path_text
from thinker.utils.seeds import derive_seed

MARGIN_FRAMES = 2  # at both ends of a shot: a cut found one frame late, a dissolve's last picture
NUM_DRAWS = 40  # of a crop that moves and has detail, before a window is given up
TRAIN, EVAL = "train", "eval"

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the source as displayed; the last two are excluded."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A video that clips are made of."""

    path: Path
    """The file."""
    name: str
    """Its path below the folder of sources, as text."""
    slug: str
    """The same as a folder's name, unique among the sources."""
    sha256: str
    """Of its content."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A part of a window's pictures, and what is made of it."""

    box: Box | None
    """What is cut out; None: all."""
    conditions: tuple[int, ...]
    """Places in the ladder."""
    seed: int
    """Of noise, drops and stalls."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """Some seconds of a shot: one piece of work."""

    source: Source
    """Where it is from."""
    shot: int
    """Number of its shot in the source, from 0."""
    scene: str
    """What its shots share a side with; the shot itself where no scene is named."""
    start: int
    """Its first frame."""
    num_frames: int
    """Its length."""
    fps: float
    """Frames a second."""
    cuts: tuple[Cut, ...]
    """At least one."""
    check_box_of: tuple[Box, ...] = ()
    """Larger crops around those of `cuts`, whose labels are compared; mostly none."""
    split: str = TRAIN
    """`TRAIN` or `EVAL`."""

    @property
    def content(self) -> str:
        """The shot, which bootstrap and splits go by."""
        return f"{self.source.slug}/{self.shot:04d}"


def name_sources(paths: Sequence[Path], root: Path, sha256: Sequence[str]) -> list[Source]:
    """The sources with their names. Two whose names differ in other characters than letters and
    digits only get a number."""
    found: list[Source] = []
    taken: set[str] = set()
    for path, digest in zip(paths, sha256, strict=True):
        relative = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
        plain = re.sub(r"[^A-Za-z0-9]+", "_", str(relative.with_suffix(""))).strip("_") or "source"
        number = next(n for n in range(len(paths)) if (f"{plain}_{n}" if n else plain) not in taken)
        slug = f"{plain}_{number}" if number else plain
        taken.add(slug)
        name = path_text(str(PurePosixPath(relative)))
        found.append(Source(path=path, name=name, slug=slug, sha256=digest))
    return found


def plan_windows(
    sources: Sequence[Source], scans: Sequence[Scan], settings: ReferenceLabelSettings
) -> list[Window]:
    """All windows in the order of the sources, each with its side.

    Raises ValueError where none is left, where a held-out scene is named that has none, and where
    crops do not fit.
    """
    windows = [
        window
        for source, scan in zip(sources, scans, strict=True)
        for window in _windows(source, scan, settings)
    ]
    if not windows:
        raise ValueError(
            f"{len(sources)} source(s) give no window of {settings.window_seconds:g} s; give "
            "longer shots, or lower window_seconds, min_motion or min_detail"
        )
    return _with_checks(_with_sides(windows, settings), scans, sources, settings)


def _windows(source: Source, scan: Scan, settings: ReferenceLabelSettings) -> Iterator[Window]:
    num_frames = round(settings.window_seconds * scan.fps)
    side = settings.crop_px
    if side is not None and side > min(scan.width, scan.height):
        raise ValueError(
            f"{source.name} is {scan.width} x {scan.height}, expected at least crop_px "
            f"({side}) on both sides"
        )
    for shot, (first, behind) in enumerate(find_shots(scan.changes_T, settings.shot_threshold)):
        for start in _starts(first, behind, num_frames, settings.windows_per_shot):
            scene = _scene(source, shot, start / scan.fps, settings)
            rng = random.Random(f"{settings.seed} {source.name} {start}")
            boxes = _boxes(scan, start, num_frames, settings, rng) if scene else []
            cuts = tuple(
                Cut(
                    box=box,
                    conditions=_conditions(settings, rng),
                    seed=derive_seed(settings.seed, rng.getrandbits(32), start),
                )
                for box in boxes
            )
            if cuts:
                yield Window(
                    source=source,
                    shot=shot,
                    scene=scene,
                    start=start,
                    num_frames=num_frames,
                    fps=scan.fps,
                    cuts=cuts,
                )


def _starts(first: int, behind: int, num_frames: int, at_most: int) -> list[int]:
    """First frames of the windows of a shot, evenly spread.

    >>> _starts(0, 104, 20, 2)
    [17, 67]
    """
    room = behind - first - 2 * MARGIN_FRAMES
    count = min(room // num_frames, at_most) if num_frames else 0
    step = room / max(count, 1)
    return [first + MARGIN_FRAMES + round(step * i + (step - num_frames) / 2) for i in range(count)]


def _scene(source: Source, shot: int, seconds: float, settings: ReferenceLabelSettings) -> str:
    own = sorted((s for s in settings.scenes if s.source == source.name), key=lambda s: s.start)
    before = [scene.name for scene in own if scene.start <= seconds]
    return before[-1] if before else f"{source.slug}/{shot:04d}"


def _conditions(settings: ReferenceLabelSettings, rng: random.Random) -> tuple[int, ...]:
    places = range(len(settings.conditions))
    number = settings.conditions_per_crop
    return tuple(places if number is None else sorted(rng.sample(places, number)))


def _boxes(
    scan: Scan, start: int, num_frames: int, settings: ReferenceLabelSettings, rng: random.Random
) -> list[Box | None]:
    """Crops that move and have detail, none overlapping another; fewer than asked for where they
    are not found."""
    frames = slice(start + 1, start + num_frames)  # the first one's motion is that of a cut
    motion_RC = scan.motion_TRC[frames].mean(0, dtype=np.float32)
    detail_RC = scan.detail_TRC[frames].mean(0, dtype=np.float32)

    def is_good(box: Box | None) -> bool:
        place = ... if box is None else _cells_of(box, scan)
        moves = float(motion_RC[place].mean()) >= settings.min_motion
        return moves and float(detail_RC[place].mean()) >= settings.min_detail

    side = settings.crop_px
    if side is None:
        return [None] if is_good(None) else []
    found: list[Box | None] = []
    for _ in range(NUM_DRAWS):
        left = rng.randrange(0, scan.width - side + 1, 2)
        top = rng.randrange(0, scan.height - side + 1, 2)
        box = (left, top, left + side, top + side)
        if is_good(box) and not any(_overlap(box, other) for other in found if other):
            found.append(box)
        if len(found) == settings.crops_per_window:
            break
    return found


def _overlap(one: Box, other: Box) -> bool:
    return (
        one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
    )  # fmt: skip


def _cells_of(box: Box, scan: Scan) -> tuple[slice, slice]:
    """Rows and columns of the cells that a box lies in, at least one of each."""
    factor = reduction(scan.width, scan.height) * CELL
    rows, columns = scan.motion_TRC.shape[1:]

    def cells(low: int, high: int, count: int) -> slice:
        first = min(round(low / factor), count - 1)
        return slice(first, max(round(high / factor), first + 1))

    return cells(box[1], box[3], rows), cells(box[0], box[2], columns)


def _with_sides(windows: Sequence[Window], settings: ReferenceLabelSettings) -> list[Window]:
    split = settings.split
    side_of = {
        "shot": lambda window: window.content,
        "scene": lambda window: window.scene,
        "source": lambda window: window.source.slug,
    }[split.by]
    names = list(dict.fromkeys(map(side_of, windows)))
    if split.held_out_scenes:
        unknown = sorted(set(split.held_out_scenes) - set(names))
        if unknown:
            raise ValueError(f"held_out_scenes {', '.join(unknown)}: no window lies in them")
        held_out = set(split.held_out_scenes)
    else:
        rng = random.Random(f"{settings.seed} sides")
        held_out = set(rng.sample(names, round(split.held_out * len(names))))
    if len(held_out) == len(names) and split.held_out < 1:
        raise ValueError(f"all {len(names)} {split.by}(s) are held out; expected some to train on")
    return [
        replace(window, split=EVAL if side_of(window) in held_out else TRAIN) for window in windows
    ]


def _with_checks(
    windows: Sequence[Window],
    scans: Sequence[Scan],
    sources: Sequence[Source],
    settings: ReferenceLabelSettings,
) -> list[Window]:
    """Draws the windows whose larger crops are labelled, too."""
    if settings.check_px is None:
        return list(windows)
    number = max(round(settings.check_share * len(windows)), 1)
    chosen = set(random.Random(f"{settings.seed} check").sample(range(len(windows)), number))
    scan_of = dict(zip((source.slug for source in sources), scans, strict=True))
    return [
        replace(window, check_box_of=_larger(window, scan_of[window.source.slug], settings))
        if place in chosen
        else window
        for place, window in enumerate(windows)
    ]


def _larger(window: Window, scan: Scan, settings: ReferenceLabelSettings) -> tuple[Box, ...]:
    """Around each crop a larger one at the same scale, moved into the picture, or all of its height
    or width where it is smaller than that."""
    assert settings.crop_px is not None and settings.check_px is not None
    scale = settings.crop_px / (settings.clip_px or settings.crop_px)
    side = min(round(settings.check_px * scale), scan.width, scan.height)

    def around(low: int, high: int, size: int) -> tuple[int, int]:
        first = min(max((low + high - side) // 2, 0), size - side)
        return first, first + side

    found = []
    for cut in window.cuts:
        assert cut.box is not None
        left, right = around(cut.box[0], cut.box[2], scan.width)
        top, bottom = around(cut.box[1], cut.box[3], scan.height)
        found.append((left, top, right, bottom))
    return tuple(found)
