"""Supervised training of a policy on lessons, by transformers' own Trainer."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from transformers import Trainer, TrainingArguments

from thinker.policies import Policy
from thinker.policies.shared_prompt import enable_shared_prompt
from thinker.train.sft.collator import LessonCollator
from thinker.train.sft.lessons import Lesson
from thinker.video import Clip


def lesson_batches(
    lessons: Sequence[Lesson], batch_size: int, num_batches: int, seed: int
) -> list[Lesson]:
    """Lessons in the order they are taught: shuffled, every batch of one question.

    Prompts of one question have one length, so a batch holds no padding. Both kinds are repeated as
    often as `num_batches` needs.
    """
    draw = random.Random(seed)
    questions = list(dict.fromkeys(lesson.question for lesson in lessons))
    streams = [
        _endless([lesson for lesson in lessons if lesson.question == question], draw)
        for question in questions
    ]
    return [
        next(streams[batch % len(streams)])
        for batch in range(num_batches)
        for _ in range(batch_size)
    ]


def _endless(lessons: list[Lesson], draw: random.Random) -> Iterator[Lesson]:
    """The lessons again and again, in a new order each time."""
    while True:
        yield from draw.sample(lessons, len(lessons))


def train_supervised(
    policy: Policy,
    lessons: Sequence[Lesson],
    read_clip: Callable[[Path], Clip],
    args: TrainingArguments,
) -> None:
    """Train all unfrozen parts of the policy on the lessons for `args.max_steps`, in place."""
    enable_shared_prompt(policy.model)
    args.remove_unused_columns = False
    args.train_sampling_strategy = "sequential"
    trainer = Trainer(
        model=policy.model,
        args=args,
        train_dataset=lesson_batches(
            lessons,
            args.per_device_train_batch_size,
            args.max_steps * args.gradient_accumulation_steps,
            args.seed,
        ),
        data_collator=LessonCollator(policy, read_clip),
    )
    trainer.train()
