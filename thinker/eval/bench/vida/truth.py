"""What is true of the pictures, regions and sentences of ViDA's test release, where it is known.

In: `bench_metadata.json`, in the form of `train_metadata.json` (data/builders/metadata.py), and
`reg-p_bench.json`, whose form is not public: a list with an object a region, `id`, `image`,
`width`, `height` and `distortions` as in the metadata, among which "No distortion" says that there
is none. Out: `Truth`, with labels as the files write them, because the published metrics compare
them so, and with the checked places that everything else uses.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thinker.data.bad_lines import BadLine
from thinker.data.builders.facts import Place
from thinker.data.builders.metadata import picture_facts, picture_place, pictures, size_of
from thinker.data.records import BadValueError, file_name, mapping, member, show, text
from thinker.tasks.level import LEVELS, level_word

METADATA_FILE, REGION_TRUTH_FILE = "bench_metadata.json", "reg-p_bench.json"
NO_DISTORTION = "no distortion"


@dataclass(frozen=True, kw_only=True)
class TrueBox:
    """A distortion that is there."""

    label: str
    """The class as the file writes it."""
    place: Place
    """The same, checked: class in lower case, box in thousandths of the sides."""


@dataclass(frozen=True, kw_only=True)
class TruePicture:
    """What is known of a picture."""

    image: str
    """Its name in the release."""
    mos: float
    """1..5."""
    level: str
    """As the file says it, else that of the MOS."""
    boxes: tuple[TrueBox, ...]
    """All its distortions; none at all for a pristine picture."""

    @property
    def places(self) -> tuple[Place, ...]:
        """The checked places."""
        return tuple(one.place for one in self.boxes)

    @property
    def key(self) -> tuple[TrueBox, ...]:
        """Those of the highest significance."""
        most = max((one.place.importance or 0.0 for one in self.boxes), default=0.0)
        return tuple(one for one in self.boxes if (one.place.importance or 0.0) == most)


@dataclass(frozen=True, kw_only=True)
class TrueRegion:
    """What affects a region."""

    image: str
    """The picture that it is a part of."""
    boxes: tuple[TrueBox, ...]
    """Its distortions; none where nothing affects it."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What is known of a release."""

    pictures: Mapping[str, TruePicture] | None = None
    """By image name; None where the file is not there."""
    regions: Mapping[str, TrueRegion] | None = None
    """By the id of the question, as text; None where the file is not there."""
    bad_lines: list[BadLine] = field(default_factory=list)
    """Entries that cannot be used, by their number from 1."""


def read_truth(folder: Path) -> Truth:
    """What the two files of a release say, as far as they are there."""
    bad: list[BadLine] = []
    return Truth(
        pictures=_read(folder / METADATA_FILE, bad, _picture),
        regions=_read(folder / REGION_TRUTH_FILE, bad, _region),
        bad_lines=bad,
    )


def _read(
    path: Path, bad: list[BadLine], entry_of: Callable[[dict[str, Any]], tuple[str, Any]]
) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    found: dict[str, Any] = {}
    for number, entry in pictures(path, bad):
        try:
            key, one = entry_of(mapping(entry, "the entry"))
            if key in found:
                raise BadValueError(f"{show(key)} is there twice")
            found[key] = one
        except BadValueError as error:
            bad.append(BadLine(file=path, line=number, reason=str(error)))
    return found


def _picture(fields: dict[str, Any]) -> tuple[str, TruePicture]:
    image, facts = file_name(member(fields, "image"), "image"), picture_facts(fields)
    mos, level = facts["mos"], fields.get("level")
    if not 1 <= mos <= 5:
        raise BadValueError(f"mos is {mos:g}, expected 1 to 5")
    if level is not None and str(level).lower() not in LEVELS:
        raise BadValueError(f"level is {show(level)}, expected one of {', '.join(LEVELS)}")
    boxes = tuple(
        TrueBox(label=one["distortion"], place=place)
        for one, place in zip(fields["distortions"], facts["places"], strict=True)
    )
    level = level_word(mos) if level is None else str(level).lower()
    return image, TruePicture(image=image, mos=mos, level=level, boxes=boxes)


def _region(fields: dict[str, Any]) -> tuple[str, TrueRegion]:
    image, (width, height) = file_name(member(fields, "image"), "image"), size_of(fields)
    given = member(fields, "distortions")
    if not isinstance(given, list):
        raise BadValueError(f"distortions is {show(given)}, expected a list")
    boxes = []
    for one in (mapping(entry, "a distortion") for entry in given):
        label = text(member(one, "distortion"), "distortion")
        if not label.strip(" .").lower().startswith(NO_DISTORTION):
            boxes.append(TrueBox(label=label, place=picture_place(one, width, height)))
    return id_of(fields), TrueRegion(image=image, boxes=tuple(boxes))


def id_of(fields: dict[str, Any]) -> str:
    """The id of a record, a number or a text, as text."""
    value = member(fields, "id")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text(value, "id")
