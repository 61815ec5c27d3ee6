"""What `inference.py` measures: scoring against a loop in the reference's style.

Three measurements, after an equality gate (same frames, same scores):
- `throughput`: 1080p H.264 files where decoding is the bottleneck (a tiny policy, mode level).
  The reference's style: one video after the other, decord with one thread, frames one by one, PIL
  resize to a square, then the batch goes through the model. Ours: `stream.predictions`.
- `modes`: level against reason (64 new tokens) on the same clips in memory.
- `memory`: growth of peak resident memory against the number of videos, of 1080p reads in one
  process, and for one file of an hour (90,000 frames).
Rounds of the two sides alternate; a ratio is taken in each round. CPU seconds (all processes) stand
beside wall seconds: other work on the machine touches them least.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av
import numpy as np
import psutil
import torch
from PIL import Image

from thinker.eval.summary import versions
from thinker.policies import TinySize, tiny_policy
from thinker.score.scorer import QualityScorer
from thinker.score.stream import predictions
from thinker.video import Clip, keyframe_indices, read_clip
from thinker.video.read_ahead import Reading

NUM_KEYFRAMES = 6
SECONDS, FPS, GOP = 10, 25, 250  # x264's default distance of key frames
MAX_MEAN_DIFFERENCE = 2.0  # grey levels; the two decoders convert YUV by different code


def write_hd_video(path: Path, seed: int, seconds: int = SECONDS) -> Path:
    """A 1080p clip of moving texture with x264's default B frames."""
    rng = np.random.default_rng(seed)
    texture = rng.integers(0, 256, (1080 // 8, 1920 // 8, 3), dtype=np.uint8)
    canvas = np.asarray(Image.fromarray(texture).resize((1920, 1080), Image.Resampling.BICUBIC))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        stream.codec_context.gop_size = GOP
        for i in range(seconds * FPS):
            picture = np.ascontiguousarray(np.roll(canvas, (2 * i, 3 * i), axis=(0, 1)))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def reference_read(path: Path, spec) -> Clip:
    """As the reference reads a video: decord, one thread, frame by frame, PIL, square."""
    from decord import VideoReader  # gpu_rates.py takes files of here where there is none

    reader = VideoReader(str(path), num_threads=1)
    indices = keyframe_indices(len(reader), spec.num_keyframes)
    frames = []
    for index in indices:
        picture = Image.fromarray(reader[index].asnumpy())
        side = (spec.keyframe_px, spec.keyframe_px)
        frames.append(np.asarray(picture.resize(side, Image.Resampling.BICUBIC)))
    return Clip(
        path=path,
        keyframes_KCHW=torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous(),
        motion_MCHW=torch.empty((0, 3, spec.motion_px, spec.motion_px), dtype=torch.uint8),
        keyframe_seconds=torch.tensor([i / FPS for i in indices], dtype=torch.float64),
        motion_seconds=torch.empty(0, dtype=torch.float64),
        keyframe_indices=tuple(indices),
        motion_indices=(),
        num_frames=len(reader),
        fps=FPS,
        height=1080,
        width=1920,
    )


def reference_loop(scorer: QualityScorer, paths: list[Path]) -> list[float]:
    clips = [reference_read(path, scorer.clip_spec) for path in paths]
    return [prediction.score or 0.0 for prediction in scorer.score_clips(clips)]


def our_loop(scorer: QualityScorer, paths: list[Path], num_workers: int) -> list[float]:
    scored = predictions(scorer, paths, Reading(num_workers=num_workers))
    return [prediction.score or 0.0 for prediction in scored]


def timed(function: Callable[[], object]) -> dict[str, float]:
    """Wall and CPU seconds of one call, those of its decoding processes included."""
    wall, cpu = time.perf_counter(), _cpu_seconds()
    function()
    return {"wall": time.perf_counter() - wall, "cpu": _cpu_seconds() - cpu}


def _cpu_seconds() -> float:
    """Of this process and all below it; the server that workers are forked from waits for them."""
    own = psutil.Process()
    family = [own, *own.children(recursive=True)]
    return sum(sum(process.cpu_times()[:4]) for process in family)  # user, system, of children


def alternate(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, object]:
    """Two sides in turns; ratios first / second of each round."""
    runs = []
    for _ in range(rounds):
        runs.append({name: timed(side) for name, side in sides.items()})
        print(runs[-1], file=sys.stderr, flush=True)  # kept where a busy machine takes too long
    slow, fast = sides
    ratios = {kind: [one[slow][kind] / one[fast][kind] for one in runs] for kind in ("wall", "cpu")}
    return {
        "seconds": runs,
        f"{slow}_over_{fast}": {
            kind: {"median": statistics.median(values), "range": [min(values), max(values)]}
            for kind, values in ratios.items()
        },
    }


def gate(scorer: QualityScorer, paths: list[Path]) -> dict[str, float]:
    """Same frames and same scores, or AssertionError."""
    worst_frame = worst_score = 0.0
    for path in paths:
        ours, theirs = read_clip(path, scorer.clip_spec), reference_read(path, scorer.clip_spec)
        assert ours.keyframe_indices == theirs.keyframe_indices
        difference = ours.keyframes_KCHW.float().sub(theirs.keyframes_KCHW.float()).abs().mean()
        worst_frame = max(worst_frame, float(difference))
        scores = [prediction.score or 0.0 for prediction in scorer.score_clips([ours, theirs])]
        worst_score = max(worst_score, abs(scores[0] - scores[1]))
    assert worst_frame < MAX_MEAN_DIFFERENCE, worst_frame
    return {"mean_abs_frame_difference": worst_frame, "score_difference": worst_score}


def measure_memory(
    scorer: QualityScorer, folder: Path, hd: Path, counts: list[int]
) -> dict[str, int]:
    """Growth of peak resident memory in bytes, while so many small videos are scored (decoded by
    others), while a 1080p file is read again and again here, as a decoding process does, and while
    one of an hour is scored (decoded here)."""
    source = write_small_video(folder / "small.mp4", 24)
    hour = write_small_video(folder / "hour.mp4", 3600 * FPS)
    our_loop(scorer, [source] * counts[0], num_workers=2)  # warm: buffers, imports
    our_loop(scorer, [source], num_workers=0)
    growth = {
        str(count): peak_growth(partial(our_loop, scorer, [source] * count, num_workers=2))
        for count in counts
    }
    for count in (4, 16, 64):
        growth[f"1080p_reads_{count}"] = peak_growth(partial(read_often, hd, scorer, count))
    growth["one_hour_file"] = peak_growth(partial(our_loop, scorer, [hour], num_workers=0))
    return growth


def write_small_video(path: Path, num_frames: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for i in range(num_frames):
            picture = np.full((96, 128, 3), 10 * i % 251, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def read_often(path: Path, scorer: QualityScorer, count: int) -> None:
    for _ in range(count):
        read_clip(path, scorer.clip_spec)


def peak_growth(function: Callable[[], object]) -> int:
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, proc(5)
    before = _status_bytes("VmRSS")
    function()
    return _status_bytes("VmHWM") - before


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def measure(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """The record of one run."""
    torch.manual_seed(0)
    size = TinySize(num_keyframes=NUM_KEYFRAMES, motion_mode="pooled")
    policy = tiny_policy("internvl3", size=size, texts=("The quality is poor.",))
    fast = QualityScorer(policy, mode="level", batch_size=16)
    slow = QualityScorer(policy, mode="reason", max_new_tokens=64, batch_size=16)
    files = [write_hd_video(folder / f"hd{i}.mp4", i) for i in range(2)]
    paths = [files[i % len(files)] for i in range(args.num_videos)]
    equal = gate(fast, files)
    our_loop(fast, files, args.num_workers)  # starts the server that workers are forked from
    clips = [read_clip(path, fast.clip_spec) for path in files] * 8
    return {
        "environment": environment(),
        "num_videos": args.num_videos,
        "num_workers": args.num_workers,
        "gate": equal,
        "throughput": alternate(
            {
                "reference": partial(reference_loop, fast, paths),
                "ours": partial(our_loop, fast, paths, args.num_workers),
            },
            args.rounds,
        ),
        "modes": alternate(
            {
                "reason": partial(slow.score_clips, clips),
                "level": partial(fast.score_clips, clips),
            },
            args.rounds,
        ),
        "memory_growth_bytes": measure_memory(fast, folder, files[0], [16, 64, 256]),
    }


def environment() -> dict[str, object]:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    return {
        "commit": commit.stdout.strip(),
        "versions": versions(),
        "machine": platform.machine(),
        "num_cpus": os.cpu_count(),
        "load_average_before": os.getloadavg(),
        "nice": os.nice(0),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
    }
