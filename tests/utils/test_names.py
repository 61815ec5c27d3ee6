"""File names of any bytes as text, and back."""

import os
import random
import subprocess
import sys
import unicodedata

import pytest

from tests.helpers.places import REPO
from thinker.utils.names import path_text, printable, text_path

NAMES = {
    b"plain name.mp4": "plain name.mp4",
    "ü 視頻 👩‍🔬.mp4".encode(): "ü 視頻 👩‍🔬.mp4",
    b"latin-\xfc.mp4": r"latin-\xfc.mp4",
    b"a\xff\\\n": r"a\xff\\\x0a",  # the example of the docstring
    b"tab\tcr\rbell\x07del\x7f": r"tab\x09cr\x0dbell\x07del\x7f",
    b'it\'s "quoted", =1+1': 'it\'s "quoted", =1+1',
    b"-rf": "-rf",
    b"\xed\xa0\x80": r"\xed\xa0\x80",  # half a surrogate in UTF-8's scheme
    "\u2028 \u202e \x85".encode(): r"\xe2\x80\xa8 \xe2\x80\xae \xc2\x85",
    rb"\xff": r"\\xff",  # four characters, not a byte
    "é".encode()[:1] + b"/x": r"\xc3/x",
}


@pytest.mark.parametrize(("raw", "text"), NAMES.items(), ids=map(repr, NAMES))
def test_a_name_is_one_line_of_utf_8_and_comes_back(raw, text):
    assert path_text(os.fsdecode(raw)) == text
    assert os.fsencode(text_path(text)) == raw
    assert printable(text) == text


def test_names_of_random_bytes_come_back():
    draw = random.Random(7)
    for _ in range(2000):
        raw = bytes(draw.choice(b"ab\\x\xc3\xbc\xe2\x80\xa8\xff\n09f ") for _ in range(12))
        text = path_text(os.fsdecode(raw))
        assert os.fsencode(text_path(text)) == raw
        text.encode()
        assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text)


@pytest.mark.parametrize("text", ["a\\b", "\\xZZ", "end\\", "\\xF0"])
def test_a_text_that_is_of_no_path_is_refused(text):
    with pytest.raises(ValueError, match="two hexadecimal digits"):
        text_path(text)


def test_a_text_that_no_file_can_have_has_a_text_too():
    assert path_text("\ud800") == r"\xed\xa0\x80"


@pytest.mark.parametrize(
    "locale",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "utf-8"},
    ],
    ids=str,
)
def test_any_terminal_takes_any_name_and_bash_gives_it_back(locale):
    """Under each locale the printed text, read as bytes by bash, is the name."""
    raw = "ü".encode() + b"\xff\\\n.mp4"
    code = (
        "import os, sys\n"
        "from thinker.utils.names import path_text, take_any_text\n"
        "take_any_text()\n"
        "print(path_text(sys.argv[1]), end='')\n"
        "print(path_text(sys.argv[1]), end='', file=sys.stderr)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPO), **locale}
    ended = subprocess.run([sys.executable, "-c", code, raw], env=environment, capture_output=True)
    assert ended.returncode == 0, ended.stderr
    for shown in (ended.stdout, ended.stderr):
        if locale.get("PYTHONIOENCODING") == "latin-1":  # which has an ü, as one byte
            shown = shown.decode("latin-1").encode()
        assert b"\n" not in shown
        back = subprocess.run(["bash", "-c", 'printf %b "$1"', "-", shown], capture_output=True)
        assert back.stdout == raw
