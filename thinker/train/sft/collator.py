"""Examples with answers → the inputs of a few packed forwards.

Examples about the same media share one prompt prefix and one encoding of the media: a packed row
holds the longest prefix that their conversations have in common, which must hold all media, and
what is left of each as a branch of it (shared_prompt.py). Rows with the same number of branches
make one forward. Loss and gradients are those of one row an example.

Shapes: B rows, G branches a row, P prefix length without its last token (left-padded), C branch
length (right-padded), L length of a conversation.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from thinker.data.examples import Example, lesson_turns
from thinker.data.rows import MAX_STAND_INS
from thinker.policies import Policy
from thinker.policies.shared_prompt import IGNORED_LABEL
from thinker.train.sft.tokens import Lesson, tokenise
from thinker.utils.tensors import left_pad
from thinker.video import Clip, VideoError
from thinker.video.medium import Medium

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Row:
    """Examples that share a packed row."""

    lessons: list[Lesson]
    """Their conversations, one a branch."""

    clips: tuple[Clip, ...]
    """The media that all of them show."""

    num_shared: int
    """Tokens that all conversations have in common, of which none is taught."""


class PackedCollator:
    """Examples → {"labels": those of all branches, "forwards": arguments of `pack_branches`, and
    media, of each forward}. All values are tensors or numbers, as a data loader moves them.

    every_part: whether every forward passes every part of the policy, whatever media it has
    (`PolicyInputs.for_every_part`). spare: examples of which one stands in for a batch none of
    whose media can be read; where some can, the others are left out of it, with a warning.
    """

    def __init__(
        self,
        policy: Policy,
        read_clip: Callable[[Medium], Clip],
        *,
        every_part: bool = False,
        spare: Sequence[Example] = (),
    ):
        self.policy = policy
        self.read_clip = read_clip
        self.every_part = every_part
        self.spare = spare

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        by_size: dict[int, list[Row]] = {}
        for row in self._some_rows(examples):
            by_size.setdefault(len(row.lessons), []).append(row)
        forwards = [self._forward(rows) for rows in by_size.values()]
        labels = torch.cat([forward["labels"].flatten() for forward in forwards])
        # transformers counts the items of a batch in `shift_labels`: the loss is a mean over them
        return {"labels": labels, "shift_labels": labels, "forwards": forwards}

    def _some_rows(self, examples: Sequence[Example]) -> list[Row]:
        """The rows of a batch, or of an example that stands in for all of it."""
        others = (example for example in self.spare if example not in examples)
        for batch in (examples, *([other] for other in islice(others, MAX_STAND_INS))):
            rows = self.rows(batch)
            if rows:
                return rows
        names = ", ".join(example.id for example in examples)
        raise ValueError(
            f"no medium of {names} can be read, nor of {MAX_STAND_INS} other examples; the "
            "warnings above say why. Mend that and start the same command again"
        )

    def rows(self, examples: Sequence[Example]) -> list[Row]:
        """The packed rows of a batch, in the order in which their media come first; none of media
        that cannot be read."""
        clips: dict[Medium, Clip] = {}
        rows: list[Row] = []
        for group in _groups(examples):
            try:
                for medium in group[0].media:
                    if medium not in clips:
                        clips[medium] = self.read_clip(medium)
            except VideoError as error:
                logger.warning("left out of a batch: %s", error)
                continue
            shown = tuple(clips[medium] for medium in group[0].media)
            lessons = [self._lesson(example, shown) for example in group]
            rows += self._shared(lessons, shown)
        return rows

    def _lesson(self, example: Example, clips: tuple[Clip, ...]) -> Lesson:
        turns = lesson_turns(example, self.policy.inputs.levels)
        return tokenise(self.policy, clips, turns)

    def _shared(self, lessons: list[Lesson], clips: tuple[Clip, ...]) -> list[Row]:
        """One row where the common prefix holds all media, else one a lesson."""
        num_shared = min(lesson.taught.index(True) for lesson in lessons)
        if len(lessons) > 1:
            columns = zip(*(lesson.ids[:num_shared] for lesson in lessons), strict=True)
            same = [len(set(column)) == 1 for column in columns]
            num_shared = same.index(False) if False in same else num_shared
            image = self.policy.model.config.image_token_id
            if num_shared == 0 or any(image in lesson.ids[num_shared:] for lesson in lessons):
                return [row for lesson in lessons for row in self._shared([lesson], clips)]
        return [Row(lessons=lessons, clips=clips, num_shared=num_shared)]

    def _forward(self, rows: list[Row]) -> dict[str, Any]:
        """Rows of G branches each; every row brings its own media."""
        inputs, backbone = self.policy.inputs, self.policy.model.model
        lessons = [lesson for row in rows for lesson in row.lessons]
        clips = [clip for row in rows for clip in row.clips]
        numbers = iter(range(len(clips)))
        media_rows = [tuple(next(numbers) for _ in row.clips) for row in rows]
        media = inputs.media_inputs(inputs.for_every_part(clips) if self.every_part else clips)
        ids_L = [torch.tensor(lesson.ids) for lesson in lessons]
        positions_L = self._positions(backbone, ids_L, media, rows, media_rows)
        shared = [row.num_shared for row in rows for _ in row.lessons]
        labels_L = [
            torch.tensor([i if t else IGNORED_LABEL for i, t in zip(x.ids, x.taught, strict=True)])
            for x in lessons
        ]
        first = range(0, len(lessons), len(rows[0].lessons))  # a lesson of each row
        return {
            "prefix_ids": left_pad([ids_L[i][: shared[i] - 1] for i in first]),
            "prefix_mask": left_pad([torch.ones(shared[i] - 1, dtype=torch.bool) for i in first]),
            "prefix_positions": left_pad([positions_L[i][..., : shared[i] - 1] for i in first]),
            "branch_ids": _right_pad([x[n - 1 : -1] for x, n in zip(ids_L, shared, strict=True)]),
            "branch_positions": _right_pad(
                [x[..., n - 1 : -1] for x, n in zip(positions_L, shared, strict=True)]
            ),
            "labels": _right_pad(
                [x[n:] for x, n in zip(labels_L, shared, strict=True)], IGNORED_LABEL
            ),
            "media_inputs": media,
            "media_rows": media_rows,
        }

    def _positions(self, backbone, ids_L, media, rows, media_rows) -> list[torch.Tensor]:
        """Positions of every conversation as a row of its own, (L,) or (3, L)."""
        shown = [m for row, m in zip(rows, media_rows, strict=True) for _ in row.lessons]
        mask = left_pad([torch.ones_like(ids) for ids in ids_L])
        padded = left_pad(ids_L, self.policy.tokenizer.pad_token_id)
        positions = backbone.prompt_positions(padded, mask, media, shown).ids
        return [positions[..., i, mask.shape[1] - len(ids) :] for i, ids in enumerate(ids_L)]


def _groups(examples: Sequence[Example]) -> list[list[Example]]:
    """Different examples about the same media; without media, every example is on its own."""
    groups: list[list[Example]] = []
    open_groups: dict[tuple[Medium, ...], list[Example]] = {}
    for example in examples:
        group = open_groups.get(example.media)
        if not example.media or group is None or example in group:
            group = open_groups[example.media] = []
            groups.append(group)
        group.append(example)
    return groups


def _right_pad(rows: list[torch.Tensor], value: int = 0) -> torch.Tensor:
    """Stack (…, C_i) tensors along a new row axis before the last, padded on the right."""
    length = max(row.shape[-1] for row in rows)
    padded = [
        torch.nn.functional.pad(row, (0, length - row.shape[-1]), value=value) for row in rows
    ]
    return torch.stack(padded, dim=-2)
