"""Rollouts of a checkpoint, joined with the rows that the data loader delivers again."""

import pytest
import torch

from thinker.train.grpo.batch import SavedBatches

CPU = torch.device("cpu")


def rows(*names):
    return [{"sample_id": name, "clips": (name,), "turns": ()} for name in names]


@pytest.mark.parametrize(
    ("delivered", "is_same"), [("aabb", True), ("aacc", False)], ids=["same", "stand-in"]
)
def test_rollouts_are_not_joined_with_other_examples(delivered, is_same, caplog):
    batches = [
        {"ids": torch.tensor([1, 2]), "sample_id": ["a", "a"], "asked": ["prompt"] * 2},
        {"ids": torch.tensor([3, 4]), "sample_id": ["b", "b"], "asked": ["prompt"] * 2},
    ]
    saved = SavedBatches(SavedBatches.state(batches))
    taken = saved.take(rows(*delivered), CPU)
    assert (taken is not None) == is_same == ("drawn anew" not in caplog.text)
    if taken is not None:
        assert [batch["ids"].tolist() for batch in taken] == [[1, 2], [3, 4]]
        assert [prompt.clips for prompt in taken[1]["asked"]] == [("b",), ("b",)]
    assert saved.take(rows(*delivered), CPU) is None
