"""Text files as other programs write them: with byte order marks, or in UTF-16."""

import codecs

_WIDE = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def plain_utf8(data: bytes) -> bytes:
    r"""The same text in UTF-8, without a byte order mark.

    Spreadsheets write a mark before UTF-8, and UTF-16 ("Unicode text") with one. What has no mark
    is returned as it is, and so is what only looks like UTF-16: the reader then says what is wrong.

    >>> plain_utf8(b"\xef\xbb\xbfa"), plain_utf8("a".encode("utf-16")), plain_utf8(b"a")
    (b'a', b'a', b'a')
    """
    for mark, encoding in _WIDE:
        if data.startswith(mark):
            try:
                return data.decode(encoding).encode()
            except UnicodeError:
                return data
    return data.removeprefix(codecs.BOM_UTF8)
