"""Text files of other programs: their marks, by the examples of the docstrings and by all kinds."""

import codecs

import pytest

from thinker.utils import text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_mark_names_the_encoding_and_goes(encoding):
    data = "größer\n".encode(encoding)
    assert text.marked_encoding(data) == encoding
    assert text.plain_utf8(data) == "größer\n".encode()


def test_big_endian_marks():
    for mark, encoding in ((codecs.BOM_UTF16_BE, "utf-16"), (codecs.BOM_UTF32_BE, "utf-32")):
        data = mark + "a".encode(f"{encoding}-be")
        assert (text.marked_encoding(data), text.plain_utf8(data)) == (encoding, b"a")
    broken = codecs.BOM_UTF16_LE + b"a"
    assert text.plain_utf8(broken) == broken
