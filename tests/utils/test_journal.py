"""Rows on disk: a line that is cut or spoilt costs its own row, a row counts once."""

import logging

import pytest

from thinker.utils.journal import (
    SHOWN_KEYS,
    RowJournal,
    claimed_folder,
    decode_row,
    encode_row,
    read_rows,
)


def claim(folder, fingerprint, has_rows=True):
    with claimed_folder(folder, fingerprint, lambda: has_rows):
        pass


ROWS = {0: {"path": "ü.mp4", "score": 3.25}, 7: {"path": "b\n.mp4", "score": None}, 2: {}}


def test_a_row_is_one_line_and_comes_back(tmp_path):
    for index, row in ROWS.items():
        line = encode_row(index, row)
        assert line.endswith(b"\n") and line.count(b"\n") == 1 and line.isascii()
        assert decode_row(line[:-1]) == (index, row)
    with pytest.raises(ValueError, match="JSON compliant"):
        encode_row(0, {"score": float("nan")})


def test_rows_are_added_once_and_read_again(tmp_path):
    path = tmp_path / "deep" / "rows.jsonl"
    assert read_rows(path) == {}
    journal = RowJournal(path)
    journal.append(ROWS.items())
    journal.append([(7, {"score": 9.0}), (8, {"score": 1.0})])  # 7 is there
    expected = {**ROWS, 8: {"score": 1.0}}
    assert journal.rows == read_rows(path) == RowJournal(path).rows == expected
    assert len(path.read_bytes().splitlines()) == 4


def test_a_row_that_replaces_one_counts_once_all_of_its_line_is_there(tmp_path):
    path = tmp_path / "rows.jsonl"
    journal = RowJournal(path)
    journal.append(ROWS.items())
    before = path.read_bytes()
    new = {"path": "b\n.mp4", "score": 9.0}
    journal.replace([(7, new)])
    assert journal.rows == read_rows(path) == {**ROWS, 7: new}
    whole = path.read_bytes()
    assert whole.startswith(before)  # the old row stays where it is
    for size in range(len(before), len(whole)):
        path.write_bytes(whole[:size])
        assert read_rows(path) == ROWS
    assert RowJournal(path).rows == ROWS


def test_a_journal_cut_at_any_byte_keeps_the_rows_before(tmp_path, caplog):
    whole = [encode_row(index, row) for index, row in ROWS.items()]
    data = b"".join(whole)
    for size in range(len(data)):
        path = tmp_path / f"{size}.jsonl"
        path.write_bytes(data[:size])
        ends = [sum(map(len, whole[: n + 1])) for n in range(len(whole))]
        num_whole = sum(end <= size for end in ends)
        expected = dict(list(ROWS.items())[:num_whole])
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            journal = RowJournal(path)
        assert journal.rows == expected
        is_cut = size not in (0, *ends)
        assert ("1 damaged row(s)" in caplog.text) == is_cut
        journal.append(ROWS.items())  # on a line of its own, though the last one was cut
        assert read_rows(path) == ROWS


def test_any_flipped_bit_costs_one_row_and_never_changes_one(tmp_path):
    path = tmp_path / "rows.jsonl"
    RowJournal(path).append(ROWS.items())
    data = path.read_bytes()
    second = len(encode_row(0, ROWS[0]))
    third = second + len(encode_row(7, ROWS[7]))
    for place in range(second, third - 1):  # the second row, without its newline
        spoilt = bytearray(data)
        spoilt[place] ^= 1
        path.write_bytes(spoilt)
        assert read_rows(path) == {0: ROWS[0], 2: ROWS[2]}, place


def test_a_folder_belongs_to_one_configuration(tmp_path):
    folder = tmp_path / "run"
    settings = {"model": "m", "sizes": (1, 2), "mode": "level"}
    claim(folder, settings)
    claim(folder, settings)  # tuples as JSON holds them
    with pytest.raises(ValueError, match=r"mode was 'level', is 'reason'; new was not set, is 1"):
        claim(folder, {**settings, "mode": "reason", "new": 1})
    assert {path.name for path in folder.iterdir()} == {"run.json", "claim.lock"}
    many = {f"key{i}": i for i in range(SHOWN_KEYS + 2)}
    with pytest.raises(ValueError, match="and 5 more"):  # 10 are new, 3 are gone, 8 are shown
        claim(folder, many)


def test_a_folder_without_rows_belongs_to_whoever_comes(tmp_path):
    claim(tmp_path, {"mode": "level"}, has_rows=False)
    claim(tmp_path, {"mode": "reason"}, has_rows=False)
    with pytest.raises(ValueError, match="mode was 'reason', is 'level'"):
        claim(tmp_path, {"mode": "level"})
