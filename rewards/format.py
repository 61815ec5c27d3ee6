"""Format reward: did the rollout think, answer, and write nothing else?"""

from collections.abc import Callable, Sequence
from typing import Any

from rewards.answer import Answer, InvalidAnswer, parse_answer
from rewards.boxes import parse_boxes
from rewards.checks import check_columns, check_rows
from rewards.choice import parse_choice
from rewards.distortion import parse_distortion
from rewards.level import parse_level

# The tasks whose answers stand in tags: (completion, parsed reference) → answer.
_PARSERS: dict[str, Callable[[str, Any], Answer | InvalidAnswer]] = {
    "score": lambda completion, _: parse_answer(completion),
    "level": lambda completion, reference: parse_level(completion, reference.levels),
    "choice": parse_choice,
    "distortion": lambda completion, reference: parse_distortion(completion, reference.names),
    "boxes": lambda completion, reference: parse_boxes(completion, reference.names),
}


class FormatReward:
    """1.0 or 0.0, never None: any text can be judged by its form.

    1.0 for a full match of `<think>.*?</think>\\s*<answer>.*?</answer>` (the format reward of
    VQAThinker, arXiv 2508.06051) whose answer is also valid for the parser of its task; else 0.0.
    The published code lets "<think></think><answer>good</answer>" earn the point; an answer nobody
    can score earns nothing here. Without a column `task`, all rows are scores.

    >>> reward = FormatReward()
    >>> completions = ["<think>a</think> <answer>3.50</answer>", "<answer>3.50</answer>"]
    >>> reward(completions, ["a", "a"], [3.5, 3.5])
    [1.0, 0.0]
    """

    name = "format"
    needs_perturbed = False
    tasks = tuple(_PARSERS)

    def __call__(
        self,
        completions: Sequence[str],
        sample_id: Sequence[str],
        target: Sequence[float | None],
        *,
        task: Sequence[str] | None = None,
        reference: Sequence[Any] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        tasks = ["score"] * len(completions) if task is None else task
        references = [None] * len(completions) if reference is None else reference
        check_columns(
            self.name,
            {"completions": completions},
            sample_id=sample_id,
            target=target,
            task=tasks,
            reference=references,
        )
        scores = [row for row, name in enumerate(tasks) if name == "score"]
        check_rows(
            self.name,
            [completions[row] for row in scores],
            [sample_id[row] for row in scores],
            [target[row] for row in scores],
        )
        answers = [
            _PARSERS[name](completion, known)
            for completion, name, known in zip(completions, tasks, references, strict=True)
        ]
        return [float(isinstance(answer, Answer) and answer.well_formed) for answer in answers]
