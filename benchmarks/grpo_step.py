"""What a GRPO step costs: stock TRL, the reference's style, and shared prompts.

Three ways to get the log-probabilities of the same completions of the same videos with the same
weights (`logprobs` in a record, `scoring` and `flops_scoring` in those of before):
(a) `trl`: TRL's own forward with our video inputs, one row a completion, fused LM head, every row
    encodes its video in every pass (`logprobs: plain`); clips come from the frame cache;
(b) `reference`: as the published VQAThinker trainer: one row a completion, decoded and encoded for
    every row, logits of the whole vocabulary over prompt and completion;
(c) `shared`: one packed row a group, a video encoded once a pass, frozen SlowFast once a step;
    clips come from the frame cache, as in all shipped configurations from the second epoch on.

A step is: read the clips (timed alone, too), reference logps (β = 0.04), training forward,
backward, SGD. Generation is timed beside it, by transformers and where it is installed by vLLM: for
(a) and (b) G copies of a video are encoded and generate once each, for (c) one is, and generates G
times; all to the same length, with the same engine. Perturbed copies are left out. The ways take
turns in one process with one thread, and medians are recorded. Before anything is timed their logps
and gradients must be equal. Counts that do not depend on the machine (FLOPs of forward and backward
by torch's FlopCounterMode, attention left out; bytes that autograd keeps for the backward pass) are
recorded beside the times, and so is how far our log-probabilities are above the floor: their FLOPs,
attention included, at the rate of a matrix product that takes turns with them.

    python benchmarks/grpo_step.py --group 8 --frames 8 --ratio 8 --out benchmarks/grpo_step.jsonl
"""

import argparse
import copy
import json
import platform
import statistics
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from trl.trainer.utils import add_fused_lm_head

from thinker.config.run import RolloutSettings
from thinker.data.demo.render import encode
from thinker.policies import Policy, Prompt, TinySize, tiny_policy
from thinker.policies.cost import language_flops, linear_flops
from thinker.policies.encode import encode_prompts
from thinker.policies.shared_prompt import enable_shared_prompt, pack_groups
from thinker.policies.shared_prompt.last_layer import skipped_parts
from thinker.rollout.base import Rollout, Sampling
from thinker.rollout.hf import HfRollout
from thinker.rollout.vllm.colocate import ColocatedEngine
from thinker.rollout.vllm.rollout import VllmRollout
from thinker.train.counters import LogprobTokens
from thinker.train.grpo.features import VideoFeatureCache
from thinker.train.grpo.plain_logprobs import VideoRows
from thinker.video import Clip, FrameCache, read_clip
from thinker.video.cache import ClipReader

BETA = 0.04
WAYS = ("trl", "reference", "shared")
GEMM_SIDE = 1024  # of the product whose rate is the ceiling
TOLERANCE = 1e-4  # of logps in float32, and of gradients relative to the largest of a tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """V videos with G completions each. paths: of the video files; clips: decoded once."""

    paths: list[Path]
    clips: list[Clip]
    prompt_ids: torch.Tensor
    completion_ids: torch.Tensor
    advantages: torch.Tensor
    group: int

    @property
    def length(self) -> int:
        return self.completion_ids.shape[1]


# The setting


def benchmark_policy(num_frames: int) -> Policy:
    """8 layers of width 256; 17 tokens a frame, 64 patches of them, and a motion branch whose
    SlowFast is frozen, as in the reference's run and in the configurations shipped here."""
    size = TinySize(
        width=256, layers=8, heads=4, vision_width=128, vision_layers=4, frame_px=112, patch_px=14,
        patches_merged=2, num_keyframes=num_frames, num_motion_frames=4 * num_frames, motion_px=48,
    )  # fmt: skip
    policy = tiny_policy("internvl3", size=size)
    policy.model.freeze(["slowfast"])
    return policy


def write_videos(folder: Path, count: int) -> list[Path]:
    """H.264 files of 90 frames of 320 x 240: moving noise, other for every file."""
    paths = []
    for number in range(count):
        draw = np.random.default_rng(number)
        scene = draw.integers(0, 256, (240, 320 + 90, 3), dtype=np.uint8)
        frames = [np.ascontiguousarray(scene[:, t : t + 320]) for t in range(90)]
        paths.append(folder / f"{number}.mp4")
        encode(frames, paths[-1], fps=30, qp=20)
    return paths


def make_batch(policy: Policy, paths: list[Path], group: int, ratio: int) -> Batch:
    """Completions of random tokens, one `ratio`-th of the prompt long."""
    clips = [read_clip(path, policy.inputs.clip_spec) for path in paths]
    prompt_ids = torch.tensor([policy.inputs.prompt_ids(prompt) for prompt in prompts_of(clips)])
    draw = torch.Generator().manual_seed(0)
    rows, length = len(paths) * group, round(prompt_ids.shape[1] / ratio)
    return Batch(
        paths=paths,
        clips=clips,
        prompt_ids=prompt_ids,
        completion_ids=torch.randint(20, 250, (rows, length), generator=draw),
        advantages=torch.randn(rows, 1, generator=draw),
        group=group,
    )


def prompts_of(clips: list[Clip]) -> list[Prompt]:
    """The policy's own question about each clip."""
    return [Prompt(clips=(clip,)) for clip in clips]


# Three ways to get log-probabilities


def rows_of(batch: Batch):
    """Token rows (V·G, P + C) and their mask."""
    prompts = batch.prompt_ids.repeat_interleave(batch.group, dim=0)
    ids = torch.cat([prompts, batch.completion_ids], dim=1)
    return ids, torch.ones_like(ids)


def logprobs_trl(contender: "Contender", core, batch: Batch, clips: list[Clip]) -> torch.Tensor:
    """Log-probabilities (V·G, C); the lines of TRL's `_get_per_token_logps_and_entropies`."""
    ids, mask = rows_of(batch)
    shown = [clip for clip in clips for _ in range(batch.group)]
    rows = VideoRows(core, core, contender.inputs, prompts_of(shown), batch.length)
    labels = ids.clone()
    labels[:, : -batch.length] = -100
    output = rows(ids, mask, labels=labels, fused_lm_head=True)
    return output.log_probs[:, -batch.length :]


def logprobs_reference(
    contender: "Contender", core, batch: Batch, clips: list[Clip]
) -> torch.Tensor:
    """As `logprobs_trl`, with the logits of every position."""
    ids, mask = rows_of(batch)
    rows = VideoRows(core, core, contender.inputs, prompts_of(clips), batch.length)
    logits = rows(ids, mask).logits[:, :-1]
    logps = logits.log_softmax(-1).gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)
    return logps[:, -batch.length :]


def logprobs_shared(contender: "Contender", core, batch: Batch, clips: list[Clip]) -> torch.Tensor:
    """One packed row a group, as `Logprobs._forward_inputs`."""
    mask = torch.ones_like(batch.prompt_ids)
    videos = contender.videos
    positions = core.model.prompt_positions(batch.prompt_ids, mask, videos.layout(clips))
    packed = pack_groups(
        batch.prompt_ids,
        mask,
        batch.completion_ids,
        torch.ones_like(batch.completion_ids),
        positions.ids,
        positions.next,
    )
    media = videos.media(clips, reference=core is contender.reference)
    output = core(**packed.inputs(), fused_lm_head=True, media_inputs=media)
    return output.log_probs.view(-1, batch.length)


LOGPROBS = {"trl": logprobs_trl, "reference": logprobs_reference, "shared": logprobs_shared}


class Contender:
    """One way, with its own copy of the policy and of the reference model."""

    def __init__(self, way: str, policy: Policy, cache: FrameCache):
        self.way, self.inputs = way, policy.inputs
        self.reader = ClipReader(self.inputs.clip_spec, None if way == "reference" else cache)
        self.core, self.reference = (_copied(policy, way) for _ in range(2))
        self.policy = Policy(model=self.core, processor=policy.processor, inputs=policy.inputs)
        self.reference.requires_grad_(False)
        self.videos = VideoFeatureCache(self.inputs, self.core, self.reference, nullcontext)
        self.optimizer = torch.optim.SGD(self.core.parameters(), lr=0.0)

    def clips(self, batch: Batch, *, decode: bool) -> list[Clip]:
        """The reference reads for every row, by decoding; the others once a video, in the frame
        cache, which the warm-up fills."""
        times = batch.group if self.way == "reference" else 1
        if decode:
            return [self.reader(path) for path in batch.paths for _ in range(times)]
        return [clip for clip in batch.clips for _ in range(times)]

    def logprobs(self, core, batch: Batch, clips: list[Clip]) -> torch.Tensor:
        return LOGPROBS[self.way](self, core, batch, clips)

    def train_logprobs(self, batch: Batch, clips: list[Clip]) -> torch.Tensor:
        """Forward and backward of a new batch; returns the logps."""
        self.videos.begin()
        return self._train(batch, clips)

    def step(self, batch: Batch) -> None:
        self.videos.begin()
        clips = self.clips(batch, decode=True)
        with torch.no_grad():
            ref_logps = self.logprobs(self.reference, batch, clips)
        self._train(batch, clips, ref_logps)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _train(self, batch: Batch, clips: list[Clip], ref_logps=None) -> torch.Tensor:
        logps = self.logprobs(self.core, batch, clips)
        per_token = -batch.advantages * (logps - logps.detach()).exp()
        if ref_logps is not None:
            gap = ref_logps - logps
            per_token = per_token + BETA * (gap.exp() - gap - 1)
        per_token.mean().backward()
        return logps.detach()

    def generate(self, batch: Batch, rollout: Rollout) -> None:
        """Completions of the batch's size, which are dropped: those of the batch are fixed."""
        copies = 1 if self.way == "shared" else batch.group
        clips = [
            replace(clip, variant=str(number))  # a clip of its own: each is encoded
            for clip in batch.clips
            for number in range(copies)
        ]
        requests = encode_prompts(self.policy, prompts_of(clips))
        sampling = Sampling(max_new_tokens=batch.length)
        groups = rollout.generate(requests, batch.group // copies, sampling, seed=0)
        assert all(len(c.token_ids) == batch.length for group in groups for c in group)


def start_rollouts(policy: Policy, batch: Batch) -> dict[str, Rollout]:
    """The back ends, none of which stops at an end token."""
    rollouts: dict[str, Rollout] = {
        "hf": HfRollout(policy.model, policy.tokenizer.pad_token_id, [])
    }
    if find_spec("vllm") is not None:
        length = policy.inputs.max_prompt_tokens() + batch.length
        engine = ColocatedEngine(policy, RolloutSettings(backend="vllm"), max_model_len=length)
        rollouts["vllm"] = VllmRollout(policy, engine, eos=[])
        rollouts["vllm"].sync(step=0)
    return rollouts


def _copied(policy: Policy, way: str):
    model = copy.deepcopy(policy.model)
    if way == "shared":
        enable_shared_prompt(model)
    if way != "reference":
        add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    return model


# Measurements


def gate(contenders: list[Contender], batch: Batch) -> dict[str, float]:
    """Largest differences from TRL's way; raises where they exceed `TOLERANCE`."""
    results = []
    for contender in contenders:
        logps = contender.train_logprobs(batch, contender.clips(batch, decode=False))
        named = contender.core.named_parameters()
        gradients = {n: p.grad.clone() for n, p in named if p.grad is not None}
        contender.optimizer.zero_grad()
        results.append((logps, gradients))
    logps, gradients = results[0]
    scale = max(float(gradient.abs().max()) for gradient in gradients.values())
    gaps = {
        "logps": max(float((logps - other).abs().max()) for other, _ in results[1:]),
        "gradients": max(
            float((gradients[n] - other[n]).abs().max()) / scale
            for _, other in results[1:]
            for n in gradients
        ),
    }
    if max(gaps.values()) > TOLERANCE:
        raise AssertionError(f"the ways differ by {gaps}, allowed {TOLERANCE}: nothing is timed")
    return gaps


def kept_bytes(contender: Contender, batch: Batch) -> int:
    """Bytes allocated by the forward and not freed at its end: what autograd keeps for the backward
    pass, and the small outputs."""
    clips = contender.clips(batch, decode=False)
    contender.videos.begin()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        logps = contender.logprobs(contender.core, batch, clips)
    kept = sum(event.self_cpu_memory_usage for event in profile.key_averages())
    del logps  # freed after the count
    return kept


def flops(contender: Contender, batch: Batch) -> int:
    """Of log-probabilities, forward and backward: matrix products and convolutions. Attention is
    left out of all three ways, since torch's counter does not know the CPU's fused kernel."""
    with FlopCounterMode(display=False) as counter:
        contender.train_logprobs(batch, contender.clips(batch, decode=False))
    contender.optimizer.zero_grad()
    return counter.get_total_flops()


def timed(
    contenders: list[Contender], batch: Batch, rollouts: dict[str, Rollout], repeats: int
) -> dict[str, dict]:
    """Interleaved wall clock of whole steps, of log-probabilities alone and of generation: median,
    minimum and maximum. A first round warms up."""
    seconds: dict[str, dict[str, list[float]]] = {c.way: {} for c in contenders}
    for repeat in range(repeats + 1):
        for contender in contenders:
            clips = contender.clips(batch, decode=False)
            work = {
                "step": lambda c=contender: c.step(batch),
                "reading": lambda c=contender: c.clips(batch, decode=True),
                "logprobs": lambda c=contender, clips=clips: c.train_logprobs(batch, clips),
            } | {
                f"generation by {name}": lambda c=contender, r=rollout: c.generate(batch, r)
                for name, rollout in rollouts.items()
            }
            for what, do in work.items():
                began = time.perf_counter()
                do()
                took = time.perf_counter() - began
                contender.optimizer.zero_grad()
                if repeat:
                    seconds[contender.way].setdefault(what, []).append(took)
    return {
        way: {
            what: {"median": statistics.median(v), "min": min(v), "max": max(v)}
            for what, v in parts.items()
        }
        for way, parts in seconds.items()
    }


def gemm_seconds() -> float:
    """One float32 product of square matrices; with one thread it reaches what the core can do."""
    matrix = torch.ones(GEMM_SIDE, GEMM_SIDE)
    began = time.process_time()
    torch.mm(matrix, matrix)
    return time.process_time() - began


def floor_flops(contender: Contender, batch: Batch, counted: int) -> dict[str, int]:
    """FLOPs of log-probabilities, forward and backward, with attention: those that are computed,
    and those of before prompt rows left most of the last layer out (`last_layer.py`)."""
    model, num_groups = contender.core, len(batch.paths)
    rows = batch.prompt_ids, batch.completion_ids
    tokens = LogprobTokens.shared(*map(torch.ones_like, rows), batch.group)
    parts = skipped_parts(model.model.language_model)
    unread = sum(map(linear_flops, parts)) * num_groups * (batch.prompt_ids.shape[1] - 1)
    whole_attention = language_flops(model, 0, tokens.pairs, 0)
    attention = language_flops(model, 0, tokens.pairs, 0, unread_pairs=tokens.unread_pairs)
    return {
        "computed": counted + 3 * attention,
        "full_last_layer": counted + 3 * (whole_attention + unread),
    }


def above_floor(contender: Contender, batch: Batch, counted: int, repeats: int) -> dict[str, Any]:
    """How many times as long a forward and backward pass takes as its `floor_flops` at the rate of
    `gemm_seconds`: medians of CPU seconds, which other work on the machine hardly changes; products
    and passes take turns."""
    clips = contender.clips(batch, decode=False)
    passes, products = [], []
    for repeat in range(repeats + 1):
        products += [gemm_seconds() for _ in range(5)]
        began = time.process_time()
        contender.train_logprobs(batch, clips)
        passes.append(time.process_time() - began)
        contender.optimizer.zero_grad()
        if not repeat:  # a first round warms up
            passes, products = [], []
    rate = 2 * GEMM_SIDE**3 / statistics.median(products)
    seconds = statistics.median(passes)
    floors = floor_flops(contender, batch, counted)
    return {
        "factor": {name: seconds * rate / flops for name, flops in floors.items()},
        "flops": floors,
        "gemm_flops_per_second": rate,
        "seconds": seconds,
    }


def speedups(seconds: dict[str, dict], rollouts: dict[str, Rollout]) -> dict[str, float]:
    """Medians of the other ways over ours: of a step, of log-probabilities, of a step with
    generation."""
    parts = {"step": ("step",), "logprobs": ("logprobs",)} | {
        f"step with generation by {name}": ("step", f"generation by {name}") for name in rollouts
    }

    def took(way: str, names: tuple[str, ...]) -> float:
        return sum(seconds[way][name]["median"] for name in names)

    return {
        f"{what} over {way}": took(way, names) / took("shared", names)
        for what, names in parts.items()
        for way in ("trl", "reference")
    }


def measure(args: argparse.Namespace, folder: Path) -> dict:
    policy = benchmark_policy(args.frames)
    batch = make_batch(policy, write_videos(folder, args.videos), args.group, args.ratio)
    contenders = [Contender(way, policy, FrameCache(folder / "cache")) for way in WAYS]
    record = {
        "group": args.group, "frames": args.frames, "videos": args.videos,
        "prompt_tokens": batch.prompt_ids.shape[1], "completion_tokens": batch.length,
        "gate": gate(contenders, batch),
        "flops_logprobs": {c.way: flops(c, batch) for c in contenders},
        "kept_bytes": {c.way: kept_bytes(c, batch) for c in contenders},
    }  # fmt: skip
    if args.repeats:
        rollouts = start_rollouts(policy, batch)
        seconds = timed(contenders, batch, rollouts, args.repeats)
        record |= {"repeats": args.repeats, "seconds": seconds}
        record["speedup"] = speedups(seconds, rollouts)
        ours = contenders[WAYS.index("shared")]
        counted = record["flops_logprobs"]["shared"]
        record["above_floor"] = above_floor(ours, batch, counted, 3 * args.repeats)
    record["flops_ratio"] = {
        way: record["flops_logprobs"][way] / record["flops_logprobs"]["shared"] for way in WAYS[:2]
    }
    packages = [name for name in ("torch", "transformers", "trl", "vllm") if find_spec(name)]
    record["versions"] = {"python": platform.python_version()} | {p: version(p) for p in packages}
    return record


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Cost of a GRPO step.")
    parser.add_argument("--group", type=int, default=8, help="G")
    parser.add_argument("--frames", type=int, default=8, help="keyframes a video")
    parser.add_argument("--ratio", type=int, default=8, help="prompt tokens per completion token")
    parser.add_argument("--videos", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7, help="0: counts only, nothing timed")
    parser.add_argument("--out", type=Path, help="jsonl file to append the record to")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        record = measure(args, Path(folder))
    print(json.dumps(record, indent=1))
    if args.out is not None:
        with open(args.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
