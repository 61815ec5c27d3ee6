"""The quality of one medium as a number on the answer scale."""

from typing import Any

from rewards.answer import Answer, InvalidAnswer, parse_answer
from thinker.tasks.base import WordTask


class ScoreTask(WordTask):
    """`<answer>3.42</answer>`, compared with the target, a MOS on the answer scale.

    Without a question of its own an example asks the policy's own (`thinker.prompts.QUESTION`).
    """

    name: str = "score"
    media_kinds: tuple[str, ...] = ("video", "image")
    num_media: tuple[int, int | None] = (1, 1)
    takes_mos: bool = True
    figures: tuple[str, ...] = ("srcc", "plcc", "krcc", "plcc_mapped", "rmse_mapped")
    rewards: tuple[str, ...] = ("regression", "ranking", "format")

    def read_reference(self, raw: Any, options: tuple[str, ...]) -> float | None:
        """The target itself. The data layer maps a MOS to the answer scale, as it knows the scale
        of the set."""
        if raw is None or (isinstance(raw, int | float) and not isinstance(raw, bool)):
            return raw
        raise ValueError(f"reference {raw!r}: expected a number on the answer scale")

    def parse(self, completion: str, reference: float | None) -> Answer[float] | InvalidAnswer:
        """See `rewards.answer.parse_answer`."""
        return parse_answer(completion)
