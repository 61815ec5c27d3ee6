"""Supervised examples → the inputs of one forward."""

from collections.abc import Callable
from pathlib import Path

import torch

from thinker.policies import Policy, Prompt
from thinker.policies.shared_prompt import pack_groups
from thinker.prompts import ask
from thinker.train.sft.lessons import Lesson
from thinker.utils.tensors import left_pad
from thinker.video import Clip


class LessonCollator:
    """Lessons → one packed batch (shared_prompt.py, groups of one): the head sees answers only."""

    def __init__(self, policy: Policy, read_clip: Callable[[Path], Clip]):
        self.policy = policy
        self.read_clip = read_clip

    def __call__(self, lessons: list[Lesson]) -> dict:
        inputs, tokenizer = self.policy.inputs, self.policy.tokenizer
        clips = [self.read_clip(lesson.path) for lesson in lessons]
        prompt_rows = [
            torch.tensor(inputs.prompt_ids(_prompt(clip, lesson)))
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


def _prompt(clip: Clip, lesson: Lesson) -> Prompt:
    turns = () if lesson.question is None else ask(lesson.question)
    return Prompt(clips=(clip,), turns=turns)
