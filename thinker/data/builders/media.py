"""What a builder has to know of a file: its length, rate and size."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from thinker.data.builders.facts import Facts
from thinker.video import ClipSpec, VideoError, medium, read_clip
from thinker.video.file import picture_size, require_regular

# One small frame: the index of the file says the rest.
_SPEC = ClipSpec(
    num_keyframes=1,
    resize="square",
    keyframe_px=16,
    min_pixels=1,
    max_pixels=1,
    factor=1,
    num_motion_frames=0,
    motion_px=1,
    stills="video",
)


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """Of a readable video or picture."""

    num_frames: int
    """1 for a picture."""
    fps: float
    """Frames a second; 0 where the file does not say, and for pictures."""
    width: int
    """In pixels, as displayed."""
    height: int
    """In pixels, as displayed."""

    @property
    def seconds(self) -> float:
        """The length, 0 where the rate is not known."""
        return self.num_frames / self.fps if self.fps else 0.0


def probe(paths: Iterable[str], root: Path) -> tuple[dict[str, FileInfo], list[VideoError]]:
    """What is known of each file that can be read, and why others cannot."""
    infos: dict[str, FileInfo] = {}
    failed: list[VideoError] = []
    for path in paths:
        try:
            clip = read_clip(medium(root / path), _SPEC)
        except VideoError as error:
            failed.append(error)
            continue
        infos[path] = FileInfo(
            num_frames=clip.num_frames, fps=clip.fps, width=clip.width, height=clip.height
        )
    return infos, failed


def missing(paths: Iterable[str], root: Path) -> list[VideoError]:
    """Those that are no file with bytes, without a look into the others."""
    failed = []
    for path in paths:
        try:
            require_regular(root / path)
        except VideoError as error:
            failed.append(error)
    return failed


def check_sizes(facts: Sequence[Facts], infos: Mapping[str, FileInfo], root: Path) -> None:
    """Raises ValueError that names the pictures whose size is not the one that their boxes were
    stated in: these would lie elsewhere. infos: of files that were read; of others the header is.
    """
    wrong = []
    for known in facts:
        if not known.size or not known.places:
            continue
        info = infos.get(known.path)
        try:
            size = (info.width, info.height) if info else picture_size(root / known.path)
        except VideoError:  # told by whoever reads it
            continue
        if size != known.size:
            there, stated = (f"{width} x {height}" for width, height in (size, known.size))
            wrong.append(f"{known.path} has {there}, its metadata say {stated}")
    if wrong:
        raise ValueError(
            f"{len(wrong)} pictures are not of the size in which their metadata state boxes, in "
            f"pixels of the upright picture: {'; '.join(wrong[:5])}{' …' if len(wrong) > 5 else ''}"
            "; give the pictures that were annotated, or scale width, height and coordinates"
        )


def check_times(facts: Sequence[Facts], infos: Mapping[str, FileInfo]) -> None:
    """Raises ValueError that names the media whose stalls or depictions lie behind their end, by
    more than a frame."""
    wrong = []
    for known in facts:
        info = infos.get(known.path)
        times = [*(known.stalls or ()), *(one.time for one in known.depictions if one.time)]
        if info is None or not times:
            continue
        if not info.fps:
            wrong.append(f"{known.path} does not say how long it lasts")
            continue
        late = [end for _, end in times if end * info.fps > info.num_frames + 1]
        if late:
            wrong.append(f"{known.path} lasts {info.seconds:.3f} s, {max(late):g} s is named")
    if wrong:
        raise ValueError(
            f"stalls or depictions of {len(wrong)} media do not lie within them: "
            f"{'; '.join(wrong[:5])}{' …' if len(wrong) > 5 else ''}"
        )
