"""Format reward: did the rollout think, answer, and write nothing else?"""

from collections.abc import Sequence
from typing import Any

from rewards.answer import Answer, parse_answer
from rewards.checks import check_rows


class FormatReward:
    """1.0 or 0.0, never None: any text can be judged by its form.

    1.0 for a full match of `<think>.*?</think>\\s*<answer>.*?</answer>` (the format reward of
    VQAThinker, arXiv 2508.06051) whose answer is also valid for `parse_answer`; else 0.0. The
    reference lets "<think></think><answer>good</answer>" earn the point; an answer nobody can score
    earns nothing here.

    >>> reward = FormatReward()
    >>> completions = ["<think>a</think> <answer>3.50</answer>", "<answer>3.50</answer>"]
    >>> reward(completions, ["a", "a"], [3.5, 3.5])
    [1.0, 0.0]
    """

    name = "format"
    needs_perturbed = False

    def __call__(
        self,
        completions: Sequence[str],
        sample_id: Sequence[str],
        target: Sequence[float],
        **columns: Any,
    ) -> list[float | None]:
        check_rows(self.name, completions, sample_id, target)
        answers = [parse_answer(completion) for completion in completions]
        return [float(isinstance(answer, Answer) and answer.well_formed) for answer in answers]
