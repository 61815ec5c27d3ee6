r"""File names as text that any output can hold, and back to the very bytes.

A name on Linux is bytes, any but NUL and "/". Python hands over what is not UTF-8 as halves of
surrogates, which no UTF-8 file, Parquet column or terminal takes. In every output of this package
(rows, CSV, Parquet, journals, pages, messages) a name is its UTF-8 text, in which

- a byte that belongs to no UTF-8 character, and every byte of a control character, of a line or
  paragraph separator and of a mark that turns the direction of writing, is `\x` and two hexadecimal
  digits;
- a backslash is `\\`.

So the text is one line, and the same in any locale. `text_path` gives the name back, as does
`printf '%b'` of bash.
"""

import codecs
import io
import os
import re
import sys
from pathlib import Path

_UNSHOWN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]", re.ASCII
)
_ESCAPE = re.compile(rb"\\(\\|x[0-9a-f]{2}|)")
_HANDLER = "thinker-bytes"


def path_text(path: Path | str) -> str:
    r"""The text of a path. Example: the name of the bytes `a`, `\`, 0xff, newline is `a\\\xff\x0a`.

    A text without backslashes and control characters stays as it is.
    """
    name = str(path)
    try:
        raw = os.fsencode(name)  # independent of the encoding of this process's locale
    except UnicodeEncodeError:  # half a surrogate that stands for no byte: no file has this name
        raw = name.encode("utf-8", "surrogatepass")
    return printable(raw.decode("utf-8", "surrogateescape").replace("\\", "\\\\"))


def text_path(text: str) -> Path:
    r"""The path that `path_text` gave this text of; `os.fsencode` of it gives its bytes.

    Raises ValueError for a backslash that is followed by neither `\` nor `x` and two digits.
    """

    def unescaped(match: re.Match[bytes]) -> bytes:
        code = match[1]
        if not code:
            raise ValueError(
                f"{text!r} is not the text of a path: expected \\\\ or \\x and two hexadecimal "
                "digits (0-9, a-f) for every backslash"
            )
        return code if code == b"\\" else bytes.fromhex(code[1:].decode())

    return Path(os.fsdecode(_ESCAPE.sub(unescaped, text.encode())))


def printable(text: str) -> str:
    r"""The text in one line of UTF-8: what `path_text` escapes is escaped, backslashes are not.

    Example: `printable("a\nb")` is `a\x0ab`.
    """
    return _UNSHOWN.sub(lambda match: _hexadecimal(match[0]), text)


def _hexadecimal(character: str) -> str:
    try:
        raw = character.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raw = character.encode("utf-8", "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in raw)


def take_any_text() -> None:
    r"""Let standard output and error take any text, whatever the encoding of the terminal: what it
    has no character for is written as its bytes, `ü` as `\xc3\xbc`, as in a path's text."""
    codecs.register_error(_HANDLER, _unencodable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def _unencodable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(map(_hexadecimal, characters)), error.end
