"""VMAF, measured by an ffmpeg that was built with libvmaf: a program that is called, never linked.

It is looked for in PATH and in the package imageio-ffmpeg, whose wheel carries one (FFmpeg under
the GPL, version 3 or later; libvmaf and its models under BSD-2-Clause-Patent; nothing of either is
part of this project). The model is vmaf_v0.6.1, which libvmaf carries: https://github.com/Netflix/vmaf
It was fitted to ratings of 1080p at three picture heights; small pictures lie outside of that.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from thinker.data.reference_labels.planes import size

MODEL = "vmaf_v0.6.1"
NUM_AT_ONCE_BYTES = 2**28
"""Pictures that one call compares lie uncompressed in temporary space; this bounds them."""
PROBE_SECONDS, CALL_SECONDS = 60.0, 900.0


@dataclass(frozen=True, kw_only=True)
class Vmaf:
    """A program that measures VMAF."""

    program: str
    """Path of an ffmpeg with libvmaf."""
    version: str
    """Model and program, "vmaf_v0.6.1, ffmpeg version 9.0.2"."""

    def __call__(
        self, reference_TYX: np.ndarray, degraded: Sequence[np.ndarray], fps: float
    ) -> list[float]:
        """The mean over the frames, 0 to 100, of each of several degraded versions of one clip."""
        at_once = max(NUM_AT_ONCE_BYTES // reference_TYX.nbytes, 1)
        found: list[float] = []
        for start in range(0, len(degraded), at_once):
            found += self._call(reference_TYX, degraded[start : start + at_once], fps)
        return found

    def _call(
        self, reference_TYX: np.ndarray, degraded: Sequence[np.ndarray], fps: float
    ) -> list[float]:
        """One start of the program for all of them, with a filter for each: starting it takes as
        long as measuring several small clips."""
        places = range(len(degraded))
        inputs, graph = ["-i", "reference.y4m"], f"[0:v]split={len(degraded)}"
        graph += "".join(f"[r{i}]" for i in places)
        outputs: list[str] = []
        for i in places:
            inputs += ["-i", f"{i}.y4m"]
            graph += (
                f";[{i + 1}:v][r{i}]libvmaf=model=version\\\\={MODEL}"
                f":log_fmt=json:log_path={i}.json[o{i}]"
            )
            outputs += ["-map", f"[o{i}]", "-f", "null", "-"]
        with tempfile.TemporaryDirectory(prefix="thinker-vmaf-") as name:
            folder = Path(name)
            _write_y4m(folder / "reference.y4m", reference_TYX, fps)
            for i in places:
                _write_y4m(folder / f"{i}.y4m", degraded[i], fps)
            run_program(
                [self.program, "-nostdin", "-v", "error", "-threads", "1", *inputs]
                + ["-filter_complex_threads", "1", "-filter_complex", graph, *outputs],
                folder=folder,
                seconds=CALL_SECONDS,
            )
            return [_mean(folder / f"{i}.json", len(reference_TYX)) for i in places]


def find_vmaf() -> Vmaf:
    """The first program with libvmaf of PATH and of imageio-ffmpeg; ValueError where there is
    none."""
    candidates = [shutil.which("ffmpeg")]
    try:
        import imageio_ffmpeg

        candidates.append(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):  # not installed; its wheel carries none for this machine
        pass
    for program in filter(None, candidates):
        try:
            said = run_program([program, "-hide_banner", "-h", "filter=libvmaf"])
        except ValueError:
            continue
        if "VMAF" in said:
            first, *_ = run_program([program, "-version"]).splitlines()
            return Vmaf(program=program, version=f"{MODEL}, {first.partition(' Copyright')[0]}")
    raise ValueError(
        "label vmaf needs an ffmpeg that was built with libvmaf, and there is none in PATH or in "
        "imageio-ffmpeg: pip install 'vqa-thinker[vmaf]', or set label: ssim or xpsnr"
    )


def run_program(
    command: Sequence[str], *, folder: Path | None = None, seconds: float = PROBE_SECONDS
) -> str:
    """What a program prints. Raises ValueError with its own words where it fails."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, timeout=seconds, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(f"{command[0]} did not run: {error}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-1000:]
        raise ValueError(f"{command[0]} ended with status {done.returncode}: {said}")
    return done.stdout.decode(errors="replace")


def _write_y4m(path: Path, planes_TYX: np.ndarray, fps: float) -> None:
    """Uncompressed, so that exactly these pictures are compared."""
    width, height = size(planes_TYX)
    rate = Fraction(fps).limit_denominator(1001)
    header = f"YUV4MPEG2 W{width} H{height} F{rate.numerator}:{rate.denominator} Ip A1:1 C420jpeg\n"
    with open(path, "wb") as file:
        file.write(header.encode())
        for planes_YX in planes_TYX:
            file.write(b"FRAME\n" + np.ascontiguousarray(planes_YX).tobytes())


def _mean(log: Path, num_frames: int) -> float:
    values = json.loads(log.read_text())
    measured = len(values["frames"])
    if measured != num_frames:
        raise ValueError(f"libvmaf compared {measured} of {num_frames} frames")
    return float(values["pooled_metrics"]["vmaf"]["mean"])
