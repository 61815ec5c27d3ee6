"""Seconds that a text names, for questions of the form "when?".

Time marks count from 1 second, as VQA²'s do: "1 second" is the first second of a video, which lasts
from 0 to 1. Both the answer and its reference count like this, so that they can be compared as they
stand.
"""

import re

TOLERANCE_SECONDS = 1.0
"""How far a second may lie from the one of the reference: its neighbours count."""

_NUMBER = r"(\d+(?:\.\d+)?)(?:st|nd|rd|th)?"
_UNIT = r"(?:seconds?|secs?|s)\b"
_NAMED = re.compile(
    rf"\b{_NUMBER}(?:\s*(?:-|–|to|and)\s*{_NUMBER})?\s*{_UNIT}"
    rf"|\bseconds?\s+{_NUMBER}(?:\s*(?:-|–|to|and)\s*{_NUMBER})?\b",
    re.IGNORECASE,
)


def seconds_of(text: str) -> tuple[float, ...]:
    """The seconds that a text names, in order.

    >>> seconds_of("It stalls from 2 to 3 seconds, and at the 5th second; second 7 is fine.")
    (2.0, 3.0, 5.0, 7.0)
    >>> seconds_of("The second video is sharper.")
    ()
    """
    return tuple(float(one) for found in _NAMED.findall(text) for one in found if one)


def agrees(answer: str, reference: str) -> bool | None:
    """Whether an answer names as many seconds as its reference, each within `TOLERANCE_SECONDS` of
    its own; None where the reference names none.

    >>> agrees("At 4 seconds.", "From the 3rd second"), agrees("At once.", "3 s")
    (True, False)
    """
    right = sorted(seconds_of(reference))
    if not right:
        return None
    given = sorted(seconds_of(answer))
    return len(given) == len(right) and all(
        abs(a - b) <= TOLERANCE_SECONDS for a, b in zip(given, right, strict=True)
    )
