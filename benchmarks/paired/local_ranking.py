"""The ranking reward as several devices give it that each know their own videos alone."""

from collections.abc import Sequence
from typing import Any

from rewards.ranking import RankingReward


class LocalRanking(RankingReward):
    """`RankingReward` within runs of `num_videos` videos of the batch, in the order of its rows.

    The published VQAThinker compares a video with the others of its device; this does the same to
    the batch of one process, so that nothing else differs.
    """

    name = "local_ranking"

    def __init__(self, num_videos: int) -> None:
        if num_videos < 2:
            raise ValueError(f"num_videos is {num_videos}, expected at least 2")
        self.num_videos = num_videos

    def __call__(
        self,
        completions: Sequence[str],
        sample_id: Sequence[str],
        target: Sequence[float],
        **columns: Any,
    ) -> list[float | None]:
        number_of: dict[str, int] = {}
        for sample in sample_id:
            number_of.setdefault(sample, len(number_of))
        place = [number_of[sample] // self.num_videos for sample in sample_id]
        rewards: list[float | None] = [None] * len(completions)
        for number in range(max(place) + 1):
            rows = [row for row, of_row in enumerate(place) if of_row == number]
            found = super().__call__(
                *([values[row] for row in rows] for values in (completions, sample_id, target))
            )
            for row, value in zip(rows, found, strict=True):
                rewards[row] = value
        return rewards
