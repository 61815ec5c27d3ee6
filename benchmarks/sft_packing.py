"""What a supervised step costs in packed rows, against one padded row an example.

Two ways to train on the same 16 examples with the same weights:
- `plain`: a batch of 16 rows, padded on the right, through transformers' own forward with labels
  -100 but for answers; every row encodes its own video, as a usual collator gives it;
- `packed`: `thinker.train.sft`: examples about the same video share its encoding and the prefix of
  their conversations, and the head sees branch positions only.

A step is forward, backward, SGD; clips are at hand. Before anything is timed loss and gradients
must agree. The ways take turns in one process with one thread, and the ratio of CPU seconds of each
round is recorded, which depends less on what else runs on a shared machine than clock seconds.
Two cases: short answers to 16 questions about 4 videos, and about 16 videos, where nothing can be
shared but the head's positions.

    python benchmarks/sft_packing.py --output benchmarks/sft_packing.json
"""

import argparse
import json
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from thinker.data.examples import Example, lesson_turns
from thinker.policies import Policy, TinySize, tiny_policy
from thinker.policies.shared_prompt import IGNORED_LABEL, enable_shared_prompt
from thinker.prompts import ask
from thinker.train.sft.collator import PackedCollator
from thinker.train.sft.tokens import tokenise
from thinker.train.sft.trainer import packed_loss
from thinker.video import Clip
from thinker.video.medium import Medium, medium

TOLERANCE = 1e-4  # of the loss in float32, and of gradients relative to the largest of a tensor
BATCH = 16
# Bodies like those of a language model: most of the work is in its layers, as in a real policy.
SIZE = TinySize(
    width=256, layers=8, heads=4, vision_width=128, vision_layers=4, frame_px=64, patch_px=8,
    patches_merged=2, num_keyframes=8, num_motion_frames=32, motion_px=48, tokens_per_frame=1,
)  # fmt: skip


def noise(policy: Policy, number: int) -> Clip:
    """A clip of noise in the form that the policy reads."""
    spec = policy.inputs.clip_spec
    draw = torch.Generator().manual_seed(number)

    def frames(count: int, side: int) -> torch.Tensor:
        return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=draw)

    return Clip(
        path=Path(f"{number}.mp4"),
        keyframes_KCHW=frames(spec.num_keyframes, spec.keyframe_px),
        motion_MCHW=frames(spec.num_motion_frames, spec.motion_px),
        keyframe_seconds=torch.arange(spec.num_keyframes, dtype=torch.float64),
        motion_seconds=torch.arange(spec.num_motion_frames, dtype=torch.float64),
        keyframe_indices=tuple(range(spec.num_keyframes)),
        motion_indices=tuple(range(spec.num_motion_frames)),
        num_frames=spec.num_motion_frames,
        fps=24.0,
        height=spec.keyframe_px,
        width=spec.keyframe_px,
    )


def questions(num_videos: int) -> list[Example]:
    """`BATCH` questions with short answers about so many videos, those of one side by side."""
    return [
        Example(
            id=str(number),
            dataset="bench",
            task="open",
            media=(medium(f"/{number * num_videos // BATCH}.mp4"),),
            turns=ask(f"<video>\nIs this video number {number} blurred or noisy?"),
            reference=f"It is {'blur' if number % 2 else 'noise'}.",
            content=str(number),
        )
        for number in range(BATCH)
    ]


class Sides:
    """Both ways over the same batch; their inputs are made beforehand."""

    def __init__(self, num_videos: int):
        self.policies = {name: tiny_policy("internvl3", size=SIZE) for name in ("plain", "packed")}
        for policy in self.policies.values():
            policy.model.freeze(["slowfast"])
            policy.model.train()
        packed = self.policies["packed"]
        enable_shared_prompt(packed.model)
        clips = {number: noise(packed, number) for number in range(num_videos)}

        def read(wanted: Medium) -> Clip:
            return clips[int(wanted.path.stem)]

        examples = questions(num_videos)
        self.batch = PackedCollator(packed, read)(examples)
        self.count = int((self.batch["labels"] != IGNORED_LABEL).sum())
        self.rows = plain_rows(self.policies["plain"], examples, read)
        self.optimizers = {
            name: torch.optim.SGD(policy.model.parameters(), lr=0.0)
            for name, policy in self.policies.items()
        }

    def loss(self, name: str) -> torch.Tensor:
        model = self.policies[name].model
        if name == "plain":
            return model(**self.rows).loss
        count = torch.tensor(self.count)
        call = lambda forward: packed_loss(self.batch["forwards"], count, forward)  # noqa: E731
        return model(in_chunks=call)["loss"]

    def step(self, name: str) -> float:
        """CPU seconds of a step."""
        began = time.process_time()
        self.optimizers[name].zero_grad()
        self.loss(name).backward()
        self.optimizers[name].step()
        return time.process_time() - began

    def check(self) -> dict[str, float]:
        """The largest differences; raises where the ways do not agree."""
        losses = {name: self.loss(name) for name in self.policies}
        for loss in losses.values():
            loss.backward()
        plain, packed = (dict(p.model.named_parameters()) for p in self.policies.values())
        worst = max(
            float((plain[n].grad - packed[n].grad).abs().max() / plain[n].grad.abs().max())
            for n in plain
            if plain[n].grad is not None and float(plain[n].grad.abs().max()) > 1e-6
        )
        difference = abs(float(losses["plain"].detach() - losses["packed"].detach()))
        if difference > TOLERANCE or worst > TOLERANCE:
            raise SystemExit(f"the ways differ: loss by {difference}, gradients by {worst}")
        return {"loss_difference": difference, "gradient_difference": worst}


def plain_rows(policy: Policy, examples: list[Example], read) -> dict[str, Any]:
    """Arguments of one forward over rows padded on the right, a video a row."""
    clips = [read(example.media[0]) for example in examples]
    lessons = [
        tokenise(policy, [clip], lesson_turns(example))
        for clip, example in zip(clips, examples, strict=True)
    ]

    def pad(rows: list[list[int]], value: int) -> torch.Tensor:
        tensors = [torch.tensor(row) for row in rows]
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)

    return {
        "input_ids": pad([x.ids for x in lessons], policy.tokenizer.pad_token_id),
        "attention_mask": pad([[1] * len(x.ids) for x in lessons], 0),
        "labels": pad(
            [
                [i if t else IGNORED_LABEL for i, t in zip(x.ids, x.taught, strict=True)]
                for x in lessons
            ],
            IGNORED_LABEL,
        ),
        "media_inputs": policy.inputs.media_inputs(clips),
    }


def measure(num_videos: int, rounds: int) -> dict[str, Any]:
    """One case: the gate, a step of each to warm up, then rounds."""
    sides = Sides(num_videos)
    gate = sides.check()
    seconds: dict[str, list[float]] = {"plain": [], "packed": []}
    for number in range(rounds + 1):
        for name, times in seconds.items():
            taken = sides.step(name)
            if number:
                times.append(taken)
    ratios = [a / b for a, b in zip(seconds["plain"], seconds["packed"], strict=True)]
    forwards = sides.batch["forwards"]
    return {
        "videos": num_videos,
        **gate,
        "tokens_plain": sides.rows["input_ids"].numel(),
        "tokens_packed": sum(f["prefix_ids"].numel() + f["branch_ids"].numel() for f in forwards),
        "cpu_seconds_plain": round(statistics.median(seconds["plain"]), 4),
        "cpu_seconds_packed": round(statistics.median(seconds["packed"]), 4),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--commit", default="", help="what was measured")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    record = {
        "batch": BATCH,
        "rounds": args.rounds,
        "commit": args.commit,
        "machine": f"{platform.machine()}, one thread",
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "cases": [measure(num_videos, args.rounds) for num_videos in (4, BATCH)],
    }
    print(json.dumps(record, indent=1))
    if args.output:
        args.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
