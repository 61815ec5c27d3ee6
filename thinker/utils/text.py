"""Text between programs: files with byte order marks or in UTF-16, cells of a spreadsheet."""

import codecs

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


def safe_cell(text: str) -> str:
    """Text that a spreadsheet will not take for a formula: a leading = + - @ or control character
    gets an apostrophe before it (OWASP, CSV injection, full-width forms too), and so does a leading
    apostrophe, so that the one added can be told; NUL, which ends a cell in some, goes.

    Example: `safe_cell("=1+1") == "'=1+1"`.
    """
    text = text.replace("\0", "")
    return "'" + text if text[:1] and text[:1] in "'=+-@＝＋－＠\t\r\n" else text
