"""How fast a policy of real size encodes, writes and is fed, one stage at a time.

    python benchmarks/gpu_rates.py --output benchmarks/gpu_rates.json

- `vision`: keyframes a second through the vision tower and its projector, pixels on the device, by
  clips a batch, with the share of the FLOPs that a large matrix product reaches;
- `motion`: the same of dense frames through SlowFast;
- `encode`: clips a second from frames in memory to embeddings (`run_policy`: normalisation on the
  CPU, transfer, both encoders);
- `generate`: tokens a second by transformers (`hf_rollout`), by prompts and completions of each;
- `decode`: clips a second from 1080p H.264 files of 10 s by the package's reader (`read_ahead`), by
  worker processes, once each of them has given a clip; `seconds` are those of all, with the start.
  0 workers: in this process.

bfloat16, random weights, no gradients; clips are noise. A part that needs what is not installed has
a row that says so. Decoding needs no GPU, and comes last.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_common import (
    Record,
    arguments,
    begin_peak,
    ceilings,
    median_seconds,
    model_names,
    peak_bytes,
    policy_of,
)

from tests.helpers.policy_factory import random_clip
from thinker.policies import Policy, Prompt
from thinker.policies.cost import motion_flops, video_tokens, vision_flops
from thinker.policies.encode import encode_prompts, run_policy
from thinker.rollout.base import Sampling
from thinker.rollout.hf import hf_rollout
from thinker.utils.tensors import to_device
from thinker.video import read_clip
from thinker.video.read_ahead import Reading, read_ahead


def encoding(policy: Policy, batch: int, rate: float, args: argparse.Namespace, record: Record):
    """Rows of vision, motion and encode for so many clips a batch; rate: FLOP/s of the device."""
    backbone, spec = policy.model.model, policy.inputs.clip_spec
    clips = [random_clip(policy, seed, height=448, width=448) for seed in range(batch)]
    media = to_device(policy.inputs.media_inputs(clips), args.device)
    motion = media["motion_frames"]
    pixels = {k: v for k, v in media.items() if k not in ("motion_frames", "slots", "moving")}
    one_clip = vision_flops(backbone, video_tokens(policy.model))
    stages: dict[str, tuple[Callable[[], object], str, int, int | None]] = {
        "vision": (lambda: backbone.encode_slots(**pixels), "frames", spec.num_keyframes, one_clip),
        "motion": (
            lambda: backbone.motion_features(motion),
            "frames",
            spec.num_motion_frames,
            motion_flops(backbone.motion.config),
        ),
        "encode": (lambda: run_policy(policy, clips), "clips", 1, None),
    }
    for stage, (work, unit, units, flops) in stages.items():
        begin_peak(args.device)
        row: dict[str, Any] = {"rate": stage, "clips": batch}
        try:
            seconds = median_seconds(work, args.device, args.repeats)
        except torch.OutOfMemoryError:
            record.add(**row, failed="out of memory")
            continue
        row |= {f"{unit}_per_second": batch * units / seconds, "milliseconds": 1e3 * seconds}
        if flops is not None:
            row["share_of_gemm"] = batch * flops / seconds / rate
        record.add(**row, peak_bytes=peak_bytes(args.device))


def generation(policy: Policy, prompts: int, group: int, args: argparse.Namespace, record: Record):
    """A row of tokens a second."""
    clips = [random_clip(policy, seed, height=448, width=448) for seed in range(prompts)]
    requests = encode_prompts(policy, [Prompt(clips=(clip,)) for clip in clips])
    backend, sampling = hf_rollout(policy), Sampling(max_new_tokens=args.new_tokens)
    written: list[int] = []

    def generate() -> None:
        answers = backend.generate(requests, group, sampling, 0)
        written.append(sum(len(one.token_ids) for rows in answers for one in rows))

    begin_peak(args.device)
    seconds = median_seconds(generate, args.device, 1)
    record.add(
        rate="generate",
        prompts=prompts,
        group=group,
        prompt_tokens=len(requests[0].token_ids),
        new_tokens=args.new_tokens,
        tokens_per_second=written[-1] / seconds,
        seconds=seconds,
        peak_bytes=peak_bytes(args.device),
    )


def decoding(policy: Policy, args: argparse.Namespace, record: Record) -> None:
    """A row of clips a second for each number of worker processes."""
    try:
        from inference_sides import write_hd_video
    except ImportError as error:
        record.add(rate="decode", skipped=str(error))
        return
    with tempfile.TemporaryDirectory() as folder:
        files = [write_hd_video(Path(folder) / f"{i}.mp4", i, args.video_seconds) for i in range(2)]
        read = partial(read_clip, spec=policy.inputs.clip_spec)
        for workers in args.workers:
            first = max(workers, 1)
            paths = [files[i % 2] for i in range(args.clips * first)]
            began = time.perf_counter()
            ended, errors = [], []
            for result in read_ahead(paths, read, Reading(num_workers=workers)):
                ended.append(time.perf_counter() - began)
                errors += [str(result)] if isinstance(result, Exception) else []
            row = {"rate": "decode", "workers": workers, "clips": len(paths), "seconds": ended[-1]}
            if errors:
                record.add(**row, failed=errors[0])
                return
            steady = (len(paths) - first) / (ended[-1] - ended[first - 1])
            record.add(**row, clips_per_second=steady)


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="InternVL3-8B", choices=model_names())
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 16], help="clips")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--clips", type=int, default=8, help="clips a worker decodes")
    parser.add_argument("--video-seconds", type=int, default=10)
    args = parser.parse_args(argv)
    reached = ceilings(args.device, args.repeats)
    record = Record(args.output, args.device, ceilings=reached, model=args.model)
    policy = policy_of(args.model, args.device)
    policy.model.eval()
    for batch in args.batches:
        encoding(policy, batch, reached["gemm_flops"], args, record)
    for prompts, group in ((1, 8), (4, 8)):
        generation(policy, prompts, group, args, record)
    decoding(policy, args, record)


if __name__ == "__main__":
    main()
