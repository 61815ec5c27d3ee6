"""Stage 1 of VQA²: what distorts a picture or a video, whole or cut in time and space."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thinker.data.builders.draft import Asked, Draft, Style
from thinker.data.builders.facts import Facts
from thinker.data.builders.media import FileInfo
from thinker.data.builders.wording import draw_of


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How clips are cut out of videos."""

    num_clips: int = 1
    """Clips of a video."""
    seconds: float | None = None
    """Length of a clip; None: all of the video. A shorter video is taken whole."""
    crop_px: int | None = None
    """Both sides of what is cut out of the picture; None: all of it. A smaller picture is taken
    whole."""

    def __post_init__(self) -> None:
        if self.num_clips < 1:
            raise ValueError(f"clips is {self.num_clips}, expected at least 1")
        if self.seconds is not None and not 0.05 <= self.seconds < math.inf:
            raise ValueError(f"clip seconds is {self.seconds:g}, expected at least 0.05")
        if self.crop_px is not None and self.crop_px < 1:
            raise ValueError(f"crop is {self.crop_px} px, expected at least 1")
        if self.num_clips > 1 and not self.is_cut:
            raise ValueError("several clips of a video are all of it; give their seconds or crop")

    @property
    def is_cut(self) -> bool:
        """Whether anything is cut away."""
        return self.seconds is not None or self.crop_px is not None


def distortion(
    facts: Sequence[Facts], style: Style, cut: Cut, infos: Mapping[str, FileInfo]
) -> list[Draft]:
    """The name of the main distortion of every medium, with its severity where that is asked."""
    drafts = []
    for known in facts:
        said = known.named(with_severity=style.with_severity)
        if said is None or (style.with_severity and known.severity is None
                                        and known.distortion != "none"):  # fmt: skip
            continue
        asked = Asked(
            question=_question(known, style), answer=f"It is {said}.", keep=tuple(said.split())
        )
        tags = {"concern": known.concern or ""}
        for fields in cuts(known, cut, style.seed, infos):
            drafts.append(
                Draft(
                    paths=(known.path,),
                    medium=known.kind,
                    task="distortion",
                    asked=(asked,),
                    tags=tags,
                    fields=fields,
                )
            )
    return drafts


def _question(known: Facts, style: Style) -> str:
    if style.with_severity:
        return style.word("severity", known.path, medium=known.kind)
    question = style.word("distortion", known.path, medium=known.kind)
    if style.is_published and known.concern != "none":  # their two questions name the kind
        return question.replace("main distortion", f"main {known.concern} distortion")
    return question


def cuts(known: Facts, cut: Cut, seed: int, infos: Mapping[str, FileInfo]) -> list[dict[str, Any]]:
    """`start`, `end` and `crop` of each clip; one empty part where nothing is cut.

    The same seed gives the same parts, whatever other media there are. Times are whole hundredths
    of a second.
    """
    if not cut.is_cut:
        return [{}]
    info = infos[known.path]
    draw = draw_of(seed, "cut", known.path)
    parts = []
    for _ in range(cut.num_clips if known.kind == "video" else 1):
        part: dict[str, Any] = {}
        if known.kind == "video" and cut.seconds is not None and info.seconds > cut.seconds:
            start = draw.randint(0, int(100 * (info.seconds - cut.seconds))) / 100
            part |= {"start": start, "end": round(start + cut.seconds, 2)}
        if cut.crop_px is not None and min(info.width, info.height) >= cut.crop_px:
            left = draw.randint(0, info.width - cut.crop_px)
            top = draw.randint(0, info.height - cut.crop_px)
            part["crop"] = [left, top, left + cut.crop_px, top + cut.crop_px]
        if part not in parts:
            parts.append(part)
    return parts
