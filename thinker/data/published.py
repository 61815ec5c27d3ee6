"""Data as LLaVA and VQA² (arXiv 2411.03795) publish them, in the forms of this package.

Of a list of files, `sources_of_list` makes sources to train on. Of a record that marks two places
for one video, `one_place_a_video` keeps one: their model replaces the first `<image>` of a video by
the tokens of its keyframes and the second by those of its motion. Ours shows both in one block,
frame by frame with its motion, at the first place. So the second place goes, and with it the words
that introduce it ("In addition, you will also obtain motion features …: <image>."), which would
announce what does not follow.
"""

import re
from pathlib import Path
from typing import Any

from thinker.data.records import BadValueError, show
from thinker.utils.names import path_text

VIDEO_KEY = "frames per sec"
"""What makes a published record one of videos, whatever its number."""

LIST_KEYS = ("datasets", "name", "media_root", "task", "mos_scale", "sampling_seed", "source")
"""What a YAML holds that lists files."""
LIST_ENTRY = frozenset({"json_path", "sampling_strategy"})

_PLACE = re.compile(r"<(?:image|video)>")
_SENTENCE_END = re.compile(r"[.!?]\s+")
_BEHIND = re.compile(r"[ \t]*[.,;:]?")


def one_place_a_video(text: str, num_videos: int) -> str:
    """The text of a user turn that marks two places for each of `num_videos` videos, with one each.

    Of each pair of places the second goes, with the words before it back to the end of a sentence
    or to the first place, and a sign behind it. A text with another number of places stays as it
    is. Raises BadValueError where those words do not speak of motion: then something else is meant.

    >>> one_place_a_video("See: <image>. And the motion feature is\\n<image>. Why?", 1)
    'See: <image>. Why?'
    >>> one_place_a_video("Frames: <image>, and motion features: <image>. Why?", 1)
    'Frames: <image>. Why?'
    """
    places = list(_PLACE.finditer(text))
    if not num_videos or len(places) != 2 * num_videos:
        return text
    kept, begin = "", 0
    for frames, motion in zip(places[::2], places[1::2], strict=True):
        between = text[frames.end() : motion.start()]
        ends = list(_SENTENCE_END.finditer(between))
        cut = ends[-1].end() if ends else 0
        if "motion" not in between[cut:].lower() and between[cut:].strip():
            raise BadValueError(
                f"{VIDEO_KEY!r} makes it a record of videos, whose second <image> stands for "
                f"motion, but the words before it are {show(between[cut:])}; mark one place a "
                "video, or leave the field out"
            )
        kept += text[begin : frames.end()] + between[:cut]
        begin = _end_behind(text, motion.end(), is_sentence=bool(ends))
    return kept + text[begin:]


def _end_behind(text: str, end: int, *, is_sentence: bool) -> int:
    """Where the text goes on: behind the sign that ends a sentence which is dropped whole."""
    if not is_sentence:
        return end
    behind = _BEHIND.match(text, end)
    assert behind is not None  # it matches the empty string
    end = behind.end()
    while end < len(text) and text[end] == " ":
        end += 1
    return end


def sources_of_list(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """A list of files as LLaVA and VQA² publish it, `datasets: [{json_path, sampling_strategy}]`,
    as `DatasetConfig` has it: a source a file. What the lists leave to the command line stands
    beside `datasets`, once for all files. Raises ValueError for anything else."""
    unknown = [key for key in raw if key not in LIST_KEYS]
    if unknown:
        raise ValueError(f"{path}: keys {unknown} beside datasets; known: {', '.join(LIST_KEYS)}")
    if "media_root" not in raw:
        raise ValueError(
            f"{path}: a list of datasets needs media_root beside it: the folder that the paths in "
            "its records are relative to"
        )
    entries = raw["datasets"]
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: datasets is {entries!r:.80}, expected a list of files")
    shared = {k: raw[k] for k in ("media_root", "task", "mos_scale", "sampling_seed") if k in raw}
    sources = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not {"json_path"} <= set(entry) <= LIST_ENTRY:
            raise ValueError(
                f"{path}: datasets.{number} is {entry!r:.80}, expected json_path and, if not all "
                "of its records are meant, sampling_strategy"
            )
        strategy = entry.get("sampling_strategy", "all")
        own = {"records": [entry["json_path"]], "sampling_strategy": strategy}
        sources.append(shared | own)
    about = {"name": raw.get("name", path_text(path.stem)), "train": sources}
    return about | ({"source": raw["source"]} if "source" in raw else {})
