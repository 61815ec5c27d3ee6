"""Precision and recall of `thinker stalls` on generated clips, by encoder, quality and noise.

    python benchmarks/stalls.py --seeds 100 101 102 --output benchmarks/stalls.json

A clip is a moving scene of 3 s at 24 frames a second with stalls, or one of the scenes without any
that could be taken for some. A stall is found where an interval shares more than half of their
union with it. The thresholds of thinker/video/stalls/detect.py were chosen on seeds 0 and 1.
"""

import argparse
import json
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from thinker.data.demo.scenes import Scene
from thinker.data.demo.stalled import draw_runs, stalled_times
from thinker.video.stalls.detect import detect_stalls
from thinker.video.stalls.intervals import Runs, seconds_of_runs

SIZE, FRAMES, FPS = 128, 72, 24
NOISE = 6.0  # standard deviation of the sensor, grey levels
ENCODERS = {
    "h264 crf 20": ("libx264", {"crf": "20", "preset": "veryfast"}, "mp4"),
    "h264 crf 36": ("libx264", {"crf": "36", "preset": "veryfast", "g": "24"}, "mp4"),
    "hevc crf 30": ("libx265", {"crf": "30", "preset": "ultrafast",
                                "x265-params": "log-level=none"}, "mp4"),
    "vp9 crf 40": ("libvpx-vp9", {"crf": "40", "b": "0", "deadline": "realtime", "cpu-used": "8"},
                   "webm"),
    "mpeg4 q 8": ("mpeg4", {"qscale": "8"}, "mp4"),
}  # fmt: skip
KINDS = ("stalled", "stalled, noisy", "moving", "slow pan", "still, noisy", "still, clean",
         "title card", "half rate")  # fmt: skip


def clip_of(kind: str, seed: int) -> tuple[list[np.ndarray], Runs]:
    """Frames and true stalls of a clip of a kind."""
    rng = np.random.default_rng((seed, KINDS.index(kind)))
    scene, other = Scene((seed, 1), SIZE), Scene((seed, 2), SIZE)
    runs: Runs = ()
    while kind.startswith("stalled") and not runs:
        runs = draw_runs(FRAMES, rng)
    times: list[float] = list(stalled_times(runs, FRAMES))
    if kind == "slow pan":
        times = [number / 8 for number in range(FRAMES)]
    if kind.startswith("still"):
        times = [0.0] * FRAMES
    if kind == "half rate":
        times = [number // 2 * 2 for number in range(FRAMES)]
    frames = [scene.frame(time) for time in times]
    if kind == "title card":
        frames[24:48] = [other.frame(0)] * 24
    if kind.endswith("noisy"):  # of the camera: a stall repeats it with the picture
        drawn: dict[float, np.ndarray] = {}
        for number, time in enumerate(times):
            key = time if kind.startswith("stalled") else number
            if key not in drawn:
                drawn[key] = rng.normal(0, NOISE, frames[number].shape)
            frames[number] = np.clip(frames[number] + drawn[key], 0, 255).astype(np.uint8)
    return frames, runs


def write(frames: list[np.ndarray], path: Path, codec: str, options: dict[str, str]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(FPS), options=options)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def matches(one: tuple[float, float], other: tuple[float, float]) -> bool:
    shared = min(one[1], other[1]) - max(one[0], other[0])
    return shared > 0.5 * (max(one[1], other[1]) - min(one[0], other[0]))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    table = {}
    for kind in KINDS:
        clips = [clip_of(kind, seed) for seed in args.seeds]
        for name, (codec, options, suffix) in ENCODERS.items():
            counts = {"clips": 0, "true": 0, "found": 0, "hits": 0, "offsets": []}
            for frames, runs in clips:
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / f"clip.{suffix}"
                    write(frames, path, codec, options)
                    found = detect_stalls(path).intervals
                true = seconds_of_runs(runs, FPS)
                pairs = [(t, f) for t in true for f in found if matches(t, f)]
                counts["clips"] += 1
                counts["true"] += len(true)
                counts["found"] += len(found)
                counts["hits"] += len(pairs)
                counts["offsets"] += [
                    round(abs(a - b) * FPS) for t, f in pairs for a, b in zip(t, f, strict=True)
                ]
            offsets = counts.pop("offsets")
            counts["mean_offset_frames"] = round(float(np.mean(offsets)), 3) if offsets else None
            table[f"{kind} | {name}"] = counts
            print(f"{kind:15s} {name:12s} {counts}", flush=True)
    if args.output:
        args.output.write_text(json.dumps({"seeds": args.seeds, "table": table}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
