"""A folder that is written aside appears whole, or leaves nothing."""

from pathlib import Path

import pytest

from thinker.utils.atomic import atomic_folder


def test_atomic_folder_appears_whole_and_vanishes_with_an_error(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(OSError, match="disk full"), atomic_folder(target) as aside:
        (aside / "half").write_text("h")
        raise OSError("disk full")
    assert not list(tmp_path.iterdir())
    with atomic_folder(target) as aside:
        (aside / "whole").write_text("w")
        assert not target.exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "whole"]
