"""Text between programs: files with byte order marks or in UTF-16, records and cells of a CSV."""

import codecs
import csv
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

_END = "\ufdd0"
"""A line behind the last one of a CSV; Unicode promises that no text holds this character."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def marked_encoding(data: bytes) -> str | None:
    r"""The encoding that the byte order mark at the beginning of a file names, for `open`, which
    then leaves the mark out; None without a mark.

    >>> marked_encoding(b"\xef\xbb\xbfa"), marked_encoding(b"a")
    ('utf-8-sig', None)
    """
    return next((encoding for mark, encoding in _MARKS if data.startswith(mark)), None)


def plain_utf8(data: bytes) -> bytes:
    r"""The same text in UTF-8, without a byte order mark.

    Spreadsheets write a mark before UTF-8, and UTF-16 ("Unicode text") with one. What has no mark
    is returned as it is, and so is what only looks like UTF-16: the reader then says what is wrong.

    >>> plain_utf8(b"\xef\xbb\xbfa"), plain_utf8("a".encode("utf-16")), plain_utf8(b"a")
    (b'a', b'a', b'a')
    """
    encoding = marked_encoding(data)
    if encoding is None or encoding == "utf-8-sig":  # bytes that are no UTF-8 stay as they are
        return data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode(encoding).encode()
    except UnicodeError:
        return data


def is_unicode(text: str) -> bool:
    r"""Whether it can be written as UTF-8; half a surrogate, as Python has it in place of a byte
    that is none, cannot.

    >>> is_unicode("café"), is_unicode("caf\udce9")
    (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def safe_cell(text: str) -> str:
    """Text that a spreadsheet will not take for a formula: a leading = + - @ or control character
    gets an apostrophe before it (OWASP, CSV injection, full-width forms too), and so does a leading
    apostrophe, so that the one added can be told; NUL, which ends a cell in some, goes.

    Example: `safe_cell("=1+1") == "'=1+1"`.
    """
    text = text.replace("\0", "")
    return "'" + text if text[:1] and text[:1] in "'=+-@＝＋－＠\t\r\n" else text


def csv_records(
    lines: Iterable[str], delimiter: str = ",", *, first_line: int = 1
) -> Iterator[tuple[int, Sequence[str]]]:
    """(number of its last line, cells) of each record of a CSV, the first line being `first_line`.

    A quote that is never closed is a `csv.Error`: Python's reader makes one cell of all that
    follows it, and so drops its records without a word.

    >>> list(csv_records(["a,b", '1,"x', 'y"']))
    [(1, ['a', 'b']), (3, ['1', 'xy'])]
    """
    reader = csv.reader(
        chain(lines, [_END]), delimiter=delimiter, skipinitialspace=delimiter == " "
    )
    begin = first_line
    for cells in reader:
        if cells == [_END]:
            return
        if cells and _END in cells[-1]:
            raise csv.Error(f"a quote that line {begin} or a later one opens is never closed")
        last = first_line + reader.line_num - 1
        yield last, cells
        begin = last + 1
