"""One cell of a label sheet → a number, a path or a text.

In come values as sheets hold them (texts, numbers, None), out come checked ones; whatever is none
raises `BadValueError` with the reason. Nothing is guessed: a number that could mean two things is
none.
"""

import datetime
import decimal
import math
import re
from typing import Any

from thinker.data.paths import MAX_NAME_BYTES
from thinker.data.records import BadValueError, show, text

BLANKS = frozenset(("", "-", "na", "n/a", "nan", "null", "none", "#n/a"))
"""What stands in a sheet where there is nothing, in lower case."""
_MAX_UTF8 = 4  # bytes of a character

_SPACES = " \t\r\n\u00a0\u202f\u2009"
_GROUP = "[ \u00a0\u202f\u2009'’]"  # between thousands, whatever the decimal sign
_EXPONENT = r"(?:[eE][+-]?[0-9]+)?"
_PLAIN = {
    False: re.compile(rf"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+){_EXPONENT}"),
    True: re.compile(rf"[+-]?(?:[0-9]+(?:,[0-9]*)?|,[0-9]+){_EXPONENT}"),
}
"""By whether the decimal sign is a comma: a number without separators of thousands."""
_GROUPED = {
    False: re.compile(
        rf"[+-]?[0-9]{{1,3}}(?:(?:,[0-9]{{3}})+|(?:{_GROUP}[0-9]{{3}})+)(?:\.[0-9]+)?"
    ),
    True: re.compile(
        rf"[+-]?[0-9]{{1,3}}(?:(?:\.[0-9]{{3}})+|(?:{_GROUP}[0-9]{{3}})+)(?:,[0-9]+)?"
    ),
}
_COULD_BE_EITHER = re.compile(r"[+-]?[0-9]{1,3},[0-9]{3}")
_DRIVE = re.compile(r"[A-Za-z]:(?:/|$)")


def is_blank(cell: Any) -> bool:
    """Whether nothing stands in a cell."""
    if isinstance(cell, str):
        return cell.strip(_SPACES).lower() in BLANKS
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def number_of(cell: Any, *, decimal_comma: bool = False) -> float:
    """The finite number in a cell.

    "67.75", " 67.75" and "1,234.5" are numbers; with a declared decimal comma "67,75" and
    "1.234,5" are. "3,500" is none without one: it may be 3500 or 3.5.
    """
    if is_blank(cell):
        raise BadValueError("no label")
    if isinstance(cell, str):
        number = _number_of_text(cell.strip(_SPACES), decimal_comma)
    elif isinstance(cell, int | float | decimal.Decimal) and not isinstance(cell, bool):
        number = float(cell)
    elif isinstance(cell, datetime.date | datetime.time):
        raise BadValueError(
            f"label is {cell}, a date; the program that saved the sheet took a number for one"
        )
    else:
        raise BadValueError(f"label {show(cell)} is not a number")
    if not math.isfinite(number):
        raise BadValueError(f"label {show(cell)} is not finite")
    return number


def _number_of_text(cell: str, decimal_comma: bool) -> float:
    if _PLAIN[decimal_comma].fullmatch(cell):
        return float(cell.replace(",", "."))
    if _GROUPED[decimal_comma].fullmatch(cell):
        if not decimal_comma and _COULD_BE_EITHER.fullmatch(cell):
            raise BadValueError(
                f"label {show(cell)} may be {cell.replace(',', '')} or {cell.replace(',', '.')}; "
                "declare a decimal comma, or write it without the comma"
            )
        whole, _, rest = cell.partition("," if decimal_comma else ".")
        sign = "-" if whole.startswith("-") else ""
        return float(f"{sign}{re.sub('[^0-9]', '', whole)}.{rest or 0}")
    swapped = _PLAIN[not decimal_comma].fullmatch(cell)
    hint = "" if not swapped else (
        "; a decimal comma is declared" if decimal_comma else "; declare a decimal comma"
    )  # fmt: skip
    raise BadValueError(f"label {show(cell)} is not a number{hint}")


def text_of(cell: Any, what: str) -> str:
    """The printable text in a cell; a whole number, as spreadsheets make of numeric names, is its
    digits: 3425371223.0 is "3425371223". `what` names the cell in the reason."""
    if is_blank(cell):
        raise BadValueError(f"no {what}")
    if isinstance(cell, float | decimal.Decimal) and math.isfinite(cell) and cell == int(cell):
        cell = int(cell)
    if isinstance(cell, bool | int | float):
        return str(cell)
    if isinstance(cell, str) and cell.isprintable():
        return cell.strip(_SPACES)
    return text(cell, what).strip(_SPACES)


def path_of(cell: Any, *, strip_prefix: str = "", add_suffix: str = "") -> str:
    r"""The relative path in a cell, with /.

    strip_prefix: what absolute paths begin with. add_suffix: the ending of the files where the
    sheet leaves it out. `path_of("C:\\v\\a\\1", strip_prefix="C:\\v", add_suffix=".mp4")` is
    "a/1.mp4".
    """
    named = text_of(cell, "path").replace("\\", "/")
    prefix = strip_prefix.replace("\\", "/").rstrip("/")
    if prefix and named.startswith(f"{prefix}/"):
        named = named[len(prefix) + 1 :]
    if named.startswith("/") or _DRIVE.match(named):
        raise BadValueError(
            f"path {show(named)} is absolute; give the folder that it begins with to strip, or as "
            "the media root"
        )
    parts = [part for part in named.split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        raise BadValueError(f"path {show(named)} must name a file below the media root, without ..")
    if add_suffix and not parts[-1].endswith(add_suffix):
        parts[-1] += add_suffix
    long = [part for part in parts if len(part) * _MAX_UTF8 > MAX_NAME_BYTES]
    if any(len(part.encode()) > MAX_NAME_BYTES for part in long):
        raise BadValueError(f"path {show(named)} has a part of more than {MAX_NAME_BYTES} bytes")
    return "/".join(parts)
