"""What ViDA's published programs read out of answers, with their quirks, to compare with their
figures. `rewards.boxes` is the parser that everything else uses.

In: an answer with the marks of Qwen2-VL. Out: distortions with boxes in thousandths; of a
description also its key distortions and its level. Source: the extraction of the MIPI challenge
(ICCV 2025), July 2025.
"""

import re
from dataclasses import dataclass

Corners = tuple[int, int, int, int]

_REF = r"<\|object_ref_start\|>(?P<ref>[^<]*)<\|object_ref_end\|>"
_BOX = r"<\|box_start\|>\((\d+),(\d+)\),\((\d+),(\d+)\)<\|box_end\|>"
_HEADER = re.compile(r"^(?P<name>[\w \-]+):[ \t]*\n?(?P<line>[^\n]*)", re.MULTILINE)
_GROUP = re.compile(rf"{_REF}(?P<boxes>(?:\s*{_BOX})+)")
_ONE = re.compile(
    r"<\|object_ref_start\|>(?P<severity>\w+) (?P<name>[^<]+)<\|object_ref_end\|>\s*" + _BOX
)
_LEVEL = re.compile(r"the quality of the image is (\w+)", re.IGNORECASE)
_SEVERITIES = {"severe": "Severe", "moderate": "Moderate", "minor": "Slight", "slight": "Slight"}
UNKNOWN = "Unknown"


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """A distortion of an answer."""

    distortion: str
    """The class, as it is written."""
    severity: str
    """"Severe", "Moderate", "Slight" or "Unknown"; of descriptions as it is written."""
    coordinates: Corners
    """In thousandths, whatever their size and order."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What is read out of a description."""

    distortions: tuple[Extracted, ...]
    """All that have one box behind their reference, each once."""
    key: tuple[Extracted, ...]
    """Those of the first sentence of the last line but one."""
    level: str
    """The word behind "the quality of the image is" in the last line, else "unknown"."""


def extract_grounding(answer: str) -> tuple[Extracted, ...]:
    """The distortions of a detection or region answer.

    A class is a line that ends in a colon, or what stands before one; of what follows, the first
    line is read, so a second severity on a line of its own is lost. The class is the header's, the
    severity the reference's.
    """
    found = []
    for header in _HEADER.finditer(answer):
        for group in _GROUP.finditer(header["line"]):
            words = group["ref"].lower().split()
            severity = next((_SEVERITIES[word] for word in words if word in _SEVERITIES), UNKNOWN)
            for corners in re.findall(_BOX, group["boxes"]):
                found.append(_extracted(header["name"].strip(), severity, corners))
    return tuple(found)


def extract_description(answer: str) -> Description:
    """The distortions, key distortions and level of a description.

    Lines count as they are: a line break at the end makes an empty last line, and the level and the
    key distortions are lost.
    """
    lines = answer.split("\n")
    sentence = lines[-2].partition(". ")[0] if len(lines) > 1 else ""
    level = _LEVEL.search(lines[-1])
    return Description(
        distortions=_references(answer),
        key=_references(sentence),
        level="unknown" if level is None else level[1].lower(),
    )


def _references(text: str) -> tuple[Extracted, ...]:
    """References of a severity and a name with one box, each once."""
    found = [
        _extracted(match["name"].strip(), match["severity"], match.groups()[2:])
        for match in _ONE.finditer(text)
    ]
    return tuple(dict.fromkeys(found))


def _extracted(name: str, severity: str, corners: tuple[str, ...]) -> Extracted:
    left, top, right, bottom = (int(corner) for corner in corners)
    return Extracted(distortion=name, severity=severity, coordinates=(left, top, right, bottom))
