"""Peak memory of a timeline of one hour of 720p, above the loaded policy.

Writes a film of repeated simple pictures (5 frames a second, groups of 50 s), then scores it window
by window in a process of its own, which says what it holds after loading and at its peak.

    python benchmarks/timeline_memory.py [--minutes 60] [--window 2] [--num-workers 1]
"""

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

FPS = 5


def write_film(path: Path, minutes: float) -> None:
    """A square that wanders over grey; ultrafast x264 writes an hour of it in a minute or two."""
    import av
    import numpy as np

    with av.open(str(path), "w") as file:
        options = {"preset": "ultrafast", "crf": "35", "bf": "2"}
        stream = file.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        stream.codec_context.gop_size = 50 * FPS
        pictures = []
        for place in range(20):
            picture = np.full((720, 1280, 3), 128, dtype=np.uint8)
            picture[300:400, 60 * place : 60 * place + 100] = 220
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            pictures.append(frame.reformat(format="yuv420p"))
        for number in range(round(60 * minutes * FPS)):
            frame = pictures[number % len(pictures)]
            frame.pts = number
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def score(path: Path, window: float, num_workers: int) -> None:
    """Print a JSON line: what the loaded policy takes, and the peak, of this process and of all
    that it starts together (seen every .2 s)."""
    from thinker.policies import tiny_policy
    from thinker.score.scorer import QualityScorer
    from thinker.video.read_ahead import Reading

    scorer = QualityScorer(tiny_policy("internvl3"), mode="level")
    loaded, began = peak_mb(), time.perf_counter()
    reading = Reading(num_workers=num_workers)
    statuses: dict[str, int] = {}
    others, ended = [0.0], threading.Event()
    watch = threading.Thread(target=watch_others, args=(others, ended))
    watch.start()
    for moment in scorer.timeline(path, window_seconds=window, reading=reading):
        status = moment.prediction.status
        statuses[status] = statuses.get(status, 0) + 1
    ended.set()
    watch.join()
    figures = {
        "windows": statuses,
        "loaded_mb": round(loaded),
        "peak_mb": round(peak_mb()),
        "others_peak_mb": round(max(others)),
        "seconds": round(time.perf_counter() - began),
    }
    print(json.dumps(figures))


def watch_others(seen: list[float], ended: threading.Event) -> None:
    """Append the memory of all processes below this one, in MB, until `ended`."""
    import psutil

    this = psutil.Process()
    while not ended.wait(0.2):
        total = 0
        for process in this.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        seen.append(total / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--window", type=float, default=2)
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--film", type=Path, help="score this one instead, in this process")
    args = parser.parse_args()
    if args.film is not None:
        score(args.film, args.window, args.num_workers)
        return
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        write_film(film, args.minutes)
        given = ["--window", str(args.window), "--num-workers", str(args.num_workers)]
        subprocess.run([sys.executable, __file__, "--film", str(film), *given], check=True)


if __name__ == "__main__":
    main()
