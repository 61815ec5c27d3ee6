"""The training data set where a medium that could be read once cannot be read any more."""

import pytest

from thinker.data.examples import Example
from thinker.data.rows import MAX_STAND_INS, example_dataset
from thinker.video import VideoError, medium


def examples(count):
    return [
        Example(id=f"demo/{i}", dataset="demo", media=(medium(f"/videos/{i}.mp4"),), content=str(i))
        for i in range(count)
    ]


def rows_of(lost, numbers, count=12):
    """Rows of a batch; clips are stood for by the names of their media."""

    def read(medium):
        if int(medium.path.stem) in lost:
            raise VideoError(medium.path, "missing")
        return medium.path.stem

    batch = example_dataset(examples(count), read)[numbers]
    assert [f"demo/{clips[0]}" for clips in batch["clips"]] == batch["sample_id"]
    return [int(clips[0]) for clips in batch["clips"]]


def test_the_next_example_that_is_not_in_the_batch_stands_in(caplog):
    assert rows_of(set(), [3, 3, 4, 4]) == [3, 3, 4, 4]
    assert not caplog.text
    assert rows_of({3}, [3, 3, 4, 4]) == [5, 5, 4, 4]  # a group stays one, no group is there twice
    assert "left out of a batch: /videos/3.mp4: missing" in caplog.text
    assert rows_of({3, 4}, [3, 4]) == [5, 6]
    assert rows_of({11}, [11]) == [0]


def test_where_all_are_gone_the_run_ends():
    lost = set(range(3, 3 + MAX_STAND_INS))
    assert rows_of(lost, [3]) == [11]
    with pytest.raises(VideoError, match=r"11\.mp4: missing"):
        rows_of({*lost, 11}, [3])
    with pytest.raises(VideoError, match=r"0\.mp4: missing"):
        rows_of({0, 1}, [0, 1], count=2)
