"""Supervised stages on the same policy: lessons (a video, a question, an answer) by transformers'
Trainer.

`warm_start_lessons` makes the short stage that a policy without pretraining needs before GRPO can
start, after VQA² (arXiv 2411.03795) stage 1: every clip teaches the name of its distortion, a small
share also the answer form with a coarse level word. No lesson holds a MOS; the number in an answer
is drawn uniformly from the bin of the level word, so that the policy starts uncertain rather than
wrong.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Trainer, TrainingArguments

from thinker import prompts
from thinker.data.samples import VideoSample
from thinker.policies import Policy
from thinker.policies.shared_prompt import enable_shared_prompt, pack_groups
from thinker.utils.tensors import left_pad
from thinker.video import Clip


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """One supervised example."""

    path: Path
    question: str | None  # None: the policy's own scoring question
    answer: str


def recognition_answer(distortion: str) -> str:
    """Example: `recognition_answer("low_contrast") == "It is low contrast."`."""
    return f"It is {distortion.replace('_', ' ')}."


def level_answer(level: str) -> str:
    """Example: `level_answer("poor") == "The quality of the video is poor."`."""
    return f"{prompts.LEVEL_PREFIX} {level}."


def reasoning_text(distortion: str, level: str) -> str:
    """Example: `reasoning_text("low_contrast", "poor")` is `"low contrast, poor quality"`."""
    return f"{distortion.replace('_', ' ')}, {level} quality"


def warm_start_lessons(
    samples: Sequence[VideoSample],
    distortions: dict[str, str],
    *,
    level_share: float,
    seed: int,
) -> list[Lesson]:
    """Recognition lessons for all samples, scoring lessons for a share of them.

    distortions: sample id → distortion word. Raises ValueError for a sample without one.
    """
    missing = [sample.id for sample in samples if sample.id not in distortions]
    if missing:
        raise ValueError(f"no distortion known of {len(missing)} samples, e.g. {missing[:3]}")
    draw = random.Random(seed)
    labelled = draw.sample(list(samples), round(level_share * len(samples)))
    lessons = [
        Lesson(
            path=sample.path,
            question=prompts.RECOGNITION,
            answer=recognition_answer(distortions[sample.id]),
        )
        for sample in samples
    ]
    for sample in labelled:
        target = min(max(sample.target, 1.0), 5.0)
        level = prompts.level_word(target)
        score = f"{1.0 + 0.8 * prompts.LEVELS.index(level) + draw.randint(0, 7) / 10:.1f}0"
        answer = prompts.scoring_answer(reasoning_text(distortions[sample.id], level), score)
        lessons += [
            Lesson(path=sample.path, question=prompts.LEVEL_QUESTION, answer=level_answer(level)),
            Lesson(path=sample.path, question=None, answer=answer),
        ]
    return lessons


class LessonCollator:
    """Lessons → one packed batch (shared_prompt.py, groups of one): the head sees answers only."""

    def __init__(self, policy: Policy, read_clip: Callable[[Path], Clip]):
        self.policy = policy
        self.read_clip = read_clip

    def __call__(self, lessons: list[Lesson]) -> dict:
        inputs, tokenizer = self.policy.inputs, self.policy.tokenizer
        clips = [self.read_clip(lesson.path) for lesson in lessons]
        prompt_rows = [
            torch.tensor(inputs.prompt_ids(clip, lesson.question))
            for clip, lesson in zip(clips, lessons, strict=True)
        ]
        answers = [tokenizer(lesson.answer)["input_ids"] for lesson in lessons]
        answer_rows = [torch.tensor([*ids, tokenizer.eos_token_id]) for ids in answers]
        prompt_ids = left_pad(prompt_rows, tokenizer.pad_token_id)
        prompt_mask = left_pad([torch.ones_like(row) for row in prompt_rows])
        media = inputs.media_inputs(clips)
        positions = self.policy.model.model.prompt_positions(prompt_ids, prompt_mask, media)
        pad = torch.nn.utils.rnn.pad_sequence
        packed = pack_groups(
            prompt_ids,
            prompt_mask,
            pad(answer_rows, batch_first=True, padding_value=tokenizer.pad_token_id),
            pad([torch.ones_like(row) for row in answer_rows], batch_first=True),
            positions.ids,
            positions.next,
        )
        return {**packed.inputs(), "labels": packed.labels, "media_inputs": media}


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
    callbacks: list | None = None,
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
        callbacks=callbacks,
    )
    trainer.train()
