"""The reward table: every reward over the rollouts of all processes at once.

In: the rows of a batch and their completions, on each process its own. Out: `JudgedRows`, the same
on every process. A reward that compares videos (ranking) needs all of them, and no result may
depend on the number of processes. TRL calls rewards on each process's rows alone, so its method is
not used.

- A batch may hold rows of several tasks. A reward is called with the rows of its own tasks and
  nothing else, so it cannot tell a mixed batch from one of theirs alone; the others are NaN.
- A reward that raises stops the run; `failing_samples` finds whose completions it fails on.
- Rewards that are all equal give a group advantages of exactly 0 (`equal_reward_rows`): the mean
  of equal floats need not be that float, and TRL divides the rest by a deviation of nearly 0.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from rewards import Answer, InvalidAnswer, Reward
from thinker.tasks import TASKS
from thinker.train.grpo.batch import BatchContext, JudgedRows
from thinker.train.step_guard import TrainingFault

NAMED_SAMPLES = 4
"""How many failing samples an error names."""

MANY_ANSWERS = 8
"""A policy whose answers collapse gives most of them to so few."""

LENGTH_PERCENTILES = (5, 50, 95)

Note = Callable[[str, float], None]
"""Takes the name and the value of a figure for the next line of the log."""

ToldAll = Callable[[list[dict[str, Any]]], None]
"""Takes the rows of this process that all others were told."""


@dataclass(frozen=True, kw_only=True)
class WeightedReward:
    """A reward and its place in the sum."""

    reward: Reward
    """What judges."""
    weight: float = 1.0
    """What its values are multiplied by."""


class RewardTable:
    """Judges the rollouts of a batch.

    num_generations: G, rollouts of a video. note: where figures for the log go. told_all: counts
    what is sent to the other processes.
    """

    def __init__(
        self,
        rewards: Sequence[WeightedReward],
        *,
        num_generations: int,
        accelerator: Accelerator,
        note: Note,
        told_all: ToldAll,
    ):
        self.rewards = [weighted.reward for weighted in rewards]
        self.weights = torch.tensor([weighted.weight for weighted in rewards])
        self.num_generations, self.accelerator = num_generations, accelerator
        self.note, self.told_all = note, told_all

    def judge(self, context: BatchContext, completions: list[str], step: int) -> JudgedRows:
        """Gather the rows of all processes and call every reward on them."""
        perturbed = context.perturbed_texts or [None] * len(completions)
        drawn = context.drawn or [{}] * len(completions)
        local = [
            {
                "completions": completion,
                "sample_id": row["sample_id"],
                "task": row["task"],
                "target": row["target"],
                "reference": row["reference"],
                "options": row["options"],
                "tags": row["tags"],
                "perturbed_completions": other,
                "drawn": facts,
            }
            for row, completion, other, facts in zip(
                context.rows, completions, perturbed, drawn, strict=True
            )
        ]
        rows = gather_object(local)
        self.told_all(local)
        facts_of_all = [row.pop("drawn") for row in rows]
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        values = [self._values(reward, columns, step) for reward in self.rewards]
        answers = [TASKS[row["task"]].parse(row["completions"], row["reference"]) for row in rows]
        self._note_answers(columns["task"], answers)
        note_variety(self.note, columns["task"], answers)
        note_lengths(self.note, [facts["num_tokens"] for facts in facts_of_all if facts])
        self._punish_invalid(values, columns["task"], answers)
        table = torch.tensor(values, device=self.accelerator.device).T.contiguous()
        return JudgedRows(
            columns=columns,
            rewards=table,
            answers=answers,
            sums=weighted_sums(table, self.weights),
            drawn=facts_of_all,
            equal=equal_reward_rows(table, self.weights, self.num_generations),
        )

    def _values(self, reward: Reward, columns: dict[str, list], step: int) -> list[float]:
        """One reward as floats; None, rows of other tasks and what is not finite become NaN, the
        last counted."""
        own = [row for row, task in enumerate(columns["task"]) if task in reward.tasks]
        judged = [math.nan] * len(columns["task"])
        if not own:
            return judged
        shown = {name: [column[row] for row in own] for name, column in columns.items()}
        try:
            values = reward(**shown)
        except Exception as error:
            raise reward_fault(reward, shown, step, error) from error
        if len(values) != len(own):
            raise ValueError(
                f"reward {reward.name!r} returned {len(values)} values for "
                f"{len(own)} completions; expected one a completion"
            )
        bad = [v is not None and not math.isfinite(v) for v in values]
        self.note(f"rewards/{reward.name}/non_finite", float(sum(bad)))
        for row, value, is_bad in zip(own, values, bad, strict=True):
            if value is not None and not is_bad:
                judged[row] = float(value)
        return judged

    def _punish_invalid(
        self, values: list[list[float]], tasks: Sequence[str], answers: Sequence[Any]
    ) -> None:
        """Invalid answers that no reward has judged become 0 for every reward of their task.

        TRL gives a row without any reward the advantage 0: answering nothing would be free, and
        better than answering wrongly. A reward of the form judges them itself.
        """
        for row, (task, answer) in enumerate(zip(tasks, answers, strict=True)):
            if not isinstance(answer, InvalidAnswer) or not all(
                math.isnan(column[row]) for column in values
            ):
                continue
            for reward, column in zip(self.rewards, values, strict=True):
                if task in reward.tasks:
                    column[row] = 0.0

    def _note_answers(
        self, tasks: Sequence[str], answers: Sequence[Answer | InvalidAnswer]
    ) -> None:
        """The share of valid answers, of each task where there are several, and the mean score."""
        is_valid = [isinstance(answer, Answer) for answer in answers]
        self.note("answers/valid_share", sum(is_valid) / len(answers))
        names = sorted(set(tasks))
        for name in names if len(names) > 1 else ():
            own = [valid for task, valid in zip(tasks, is_valid, strict=True) if task == name]
            self.note(f"answers/{name}/valid_share", sum(own) / len(own))
        scores = [
            answer.value
            for task, answer in zip(tasks, answers, strict=True)
            if task == "score" and isinstance(answer, Answer)
        ]
        if scores:
            self.note("answers/mean", sum(scores) / len(scores))

    def zero_equal_groups(
        self, advantages: torch.Tensor, judged: JudgedRows, logged: Any
    ) -> torch.Tensor:
        """The advantages of this process, those of equal groups exactly 0.

        logged: the advantages of all processes as TRL keeps them for its log, newest last; they are
        set to 0, too.
        """
        equal = judged.equal
        self.note("groups/equal_rewards_share", float(equal.float().mean()))
        for place in equal.nonzero().flatten().tolist():
            logged[place - len(equal)] = 0.0
        of_all = list(logged)[-len(equal) :]
        self.note("advantages/zero_share", sum(one == 0 for one in of_all) / len(of_all))
        first = self.accelerator.process_index * len(advantages)
        return advantages.masked_fill(equal[first : first + len(advantages)], 0.0)


def weighted_sums(rewards: torch.Tensor, weights: torch.Tensor) -> list[float | None]:
    """What TRL sums a row's rewards to; None where none of them judged it.

    rewards: (rows, functions), NaN where a reward judged nothing. Example: [.5, NaN] and [NaN, NaN]
    with weights 2 and 1 → [1.0, None].
    """
    sums = (rewards * weights.to(rewards.device)).nansum(dim=1).tolist()
    silent = rewards.isnan().all(dim=1).tolist()
    return [None if is_silent else one for one, is_silent in zip(sums, silent, strict=True)]


def note_variety(
    note: Note, tasks: Sequence[str], answers: Sequence[Answer | InvalidAnswer]
) -> None:
    """How different the valid answers of a batch are, by task: how many there are (`distinct`), and
    the shares of the commonest one and of the `MANY_ANSWERS` commonest. A policy that gives a few
    answers to all that it is asked shows here before it shows in a reward.

    Answers 3.5, 3.5, 4.0 and 2.0 are three distinct ones, and the commonest has a share of .5.
    """
    for task in sorted(set(tasks)):
        pairs = zip(tasks, answers, strict=True)
        counts = Counter(
            str(one.value) for name, one in pairs if name == task and isinstance(one, Answer)
        )
        if not counts:
            continue
        place = "answers" if len(set(tasks)) == 1 else f"answers/{task}"
        ranked = [count for _, count in counts.most_common(MANY_ANSWERS)]
        note(f"{place}/distinct", float(len(counts)))
        note(f"{place}/commonest_share", ranked[0] / counts.total())
        note(f"{place}/commonest_{MANY_ANSWERS}_share", sum(ranked) / counts.total())


def note_lengths(note: Note, num_tokens: Sequence[int]) -> None:
    """Percentiles of the lengths of a batch's completions, beside TRL's mean, least and most."""
    if num_tokens:
        for percent in LENGTH_PERCENTILES:
            value = float(np.percentile(num_tokens, percent))
            note(f"completions/p{percent}_length", value)


def check_tasks(rewards: Sequence[Reward], tasks: Iterable[str]) -> None:
    """Raises ValueError where no reward judges a task.

    TRL gives a row without any reward the advantage 0, so its rollouts would be drawn for nothing.
    """
    for task in sorted(set(tasks)):
        if not any(task in reward.tasks for reward in rewards):
            judges = " and ".join(f"{r.name} ({', '.join(r.tasks)})" for r in rewards)
            known = ", ".join(TASKS[task].rewards) or "a class of your own that names the task"
            raise ValueError(
                f"the training data holds examples of task {task!r}, which none of the rewards "
                f"judges: {judges}; add one ({known}), or take the task out of the data"
            )


def failing_samples(reward: Reward, columns: dict[str, list]) -> list[str]:
    """Ids of the samples on whose own completions the reward raises; all if on none of them."""
    failing = []
    ids = columns["sample_id"]
    for sample in sorted(set(ids)):
        rows = [i for i, other in enumerate(ids) if other == sample]
        try:
            reward(**{key: [values[i] for i in rows] for key, values in columns.items()})
        except Exception:  # whatever a reward raises, as in the call that is being explained
            failing.append(sample)
    return failing or sorted(set(ids))


def reward_fault(reward: Reward, columns: dict[str, list], step: int, error: Exception):
    """The exception that ends a run whose reward raised."""
    samples = failing_samples(reward, columns)
    more = "…" if len(samples) > NAMED_SAMPLES else ""
    return TrainingFault(
        f"reward {reward.name!r} failed at step {step} on samples "
        f"{samples[:NAMED_SAMPLES]}{more}: {type(error).__name__}: {error}"
    )


def equal_reward_rows(
    rewards: torch.Tensor, weights: torch.Tensor, num_generations: int
) -> torch.Tensor:
    """Rows of groups whose weighted reward sums are all equal, (rows,) bool.

    rewards: (rows, functions), NaN where a reward judged nothing; rows without any judgement do not
    count. Example: sums [.1, .1, .1 | .2, NaN, .3] in groups of 3 → three times True, then False.
    """
    sums = (rewards * weights.to(rewards.device)).nansum(dim=1)
    judged = ~rewards.isnan().all(dim=1)
    low = sums.masked_fill(~judged, math.inf).view(-1, num_generations).amin(dim=1)
    high = sums.masked_fill(~judged, -math.inf).view(-1, num_generations).amax(dim=1)
    return (low >= high).repeat_interleave(num_generations)
