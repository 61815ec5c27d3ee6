"""Scoring: a video goes in, a `Prediction` with a score and its reasoning comes out. A video that
cannot be scored gives a `Prediction`, too, which says why.

`QualityScorer` is what `single_infer.py`, `batch_infer.py`, the `thinker` command and the trainer's
held-out evaluation use, so all of them share one clip reader, one prompt, one encoder and one
parser. It has three modes with one interface:

- `reason`: the greedy completion, with `<think>` and `<answer>`;
- `sample`: K rollouts, their mean and an interval;
- `level`: one forward and a softmax over level words, no text.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError

from thinker.config.run import BACKENDS
from thinker.policies import Policy, load_policy
from thinker.policies.encode import encode_prompts
from thinker.policies.inputs import Prompt
from thinker.prompts import ask
from thinker.rollout.base import Completion, Rollout, Sampling
from thinker.rollout.build import scoring_rollout
from thinker.score.levels import level_probabilities
from thinker.score.prediction import (
    OUT_OF_MEMORY,
    Prediction,
    failed,
    judged,
    of_draws,
    of_levels,
)
from thinker.tasks.level import LEVEL_QUESTION, LEVEL_SCORES
from thinker.utils.tensors import out_of_memory
from thinker.video import Clip, ClipSpec, VideoError, medium, read_clip
from thinker.video.read import clip_from_frames

logger = logging.getLogger(__name__)

MODES = ("reason", "sample", "level")
BATCH_SIZE, CPU_BATCH_SIZE = 64, 8
"""How many videos are scored at once where nothing else is asked for, on a GPU and on a CPU.
Larger batches gain a CPU little, tiny policies apart, and delay the first result."""

Frames = torch.Tensor | np.ndarray
Video = str | Path | Frames


class QualityScorer:
    """Scores videos with a policy.

    rollout: the back end that generates. Where none is given, the first generation starts the one
        that `backend` names (mode "level" starts none).
    mode: one of `MODES`.
    num_samples: K of mode "sample", drawn at temperature 1 from `seed`.
    batch_size: how many videos are scored at once; chosen by the device where it is None. When
        memory runs out it halves, with a warning, and stays so.
    model_name: kept in every prediction.

    Example: `QualityScorer.from_pretrained("runs/demo/final").score("video.mp4").score`.
    """

    def __init__(
        self,
        policy: Policy,
        rollout: Rollout | None = None,
        *,
        backend: str = "hf",
        mode: str = "reason",
        num_samples: int = 8,
        max_new_tokens: int = 1024,
        batch_size: int | None = None,
        seed: int = 0,
        model_name: str = "",
    ):
        if batch_size is None:
            batch_size = CPU_BATCH_SIZE if policy.model.device.type == "cpu" else BATCH_SIZE
        if num_samples < 2 or batch_size < 1:
            raise ValueError(
                f"num_samples is {num_samples} and batch_size {batch_size}, "
                "expected at least 2 and at least 1"
            )
        self.policy = policy
        self._given_rollout = rollout
        self.backend = _checked("backend", backend, BACKENDS)
        self.mode = _checked("mode", mode, MODES)
        self.num_samples, self.max_new_tokens = num_samples, max_new_tokens
        self.batch_size, self.seed = batch_size, seed
        self.model_name, self.version = model_name, version("vqa-thinker")

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, device: str | None = None, **settings
    ) -> "QualityScorer":
        """Load a saved policy: in bfloat16 on a GPU, in float32 on the CPU.

        device: such as "cuda:1" or "cpu"; a GPU where there is one, if it is None.
        settings: keyword arguments of the constructor, such as `backend`.

        Raises ValueError for a folder without a readable model.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        try:
            policy = load_policy(folder, dtype=dtype)
        except (ValueError, OSError, KeyError, SafetensorError) as error:  # not all name the folder
            raise ValueError(f"no policy can be loaded from {folder}: {error}") from error
        policy.model.to(device).eval()
        return cls(policy, model_name=str(folder), **settings)

    @cached_property
    def rollout(self) -> Rollout:
        """The back end that generates, started when it is first asked for."""
        return self._given_rollout or scoring_rollout(
            self.policy, self.backend, max_new_tokens=self.max_new_tokens
        )

    @property
    def clip_spec(self) -> ClipSpec:
        """What the policy has read of each video."""
        return self.policy.inputs.clip_spec

    def score(
        self,
        video: Video | Sequence[str | Path],
        *,
        start: float | None = None,
        end: float | None = None,
        mode: str | None = None,
    ) -> Prediction | list[Prediction]:
        """Score one video or image, given as a path or as frames, or its part from `start` to `end`
        (seconds). A list of paths gives a list of predictions.

        Frames are uint8 RGB, a tensor (T, 3, H, W) or an array (T, H, W, 3), and count as 25 fps.
        """
        if isinstance(video, str | Path | torch.Tensor | np.ndarray):
            return self._score_all([video], start, end, mode)[0]
        return self._score_all(video, start, end, mode)

    def _score_all(self, videos, start, end, mode) -> list[Prediction]:
        items = (self.read(video, start=start, end=end) for video in videos)
        return list(self.score_stream(items, mode=mode))

    def read(
        self, video: Video, *, start: float | None = None, end: float | None = None
    ) -> Clip | Prediction:
        """The clip of a file or of frames, or the row of what cannot be read."""
        try:
            if isinstance(video, str | Path):
                return read_clip(medium(video, start=start, end=end), self.clip_spec)
            return clip_from_frames(video, self.clip_spec, start=start, end=end)
        except VideoError as error:
            return self.failed(error)

    def failed(self, error: VideoError) -> Prediction:
        """The prediction of a video that could not be read."""
        return self._signed(failed(error), self.mode)

    def _signed(self, prediction: Prediction, mode: str, seconds: float = 0.0) -> Prediction:
        return replace(
            prediction, mode=mode, seconds=seconds, model=self.model_name, version=self.version
        )

    def score_stream(
        self, items: Iterable[Clip | Prediction], *, mode: str | None = None
    ) -> Iterator[Prediction]:
        """Score clips in batches, in order. A `Prediction` (of a video that could not be read)
        passes through and counts as one of its batch."""
        batch: list[Clip | Prediction] = []
        for item in items:
            batch.append(item)
            if len(batch) >= self.batch_size:  # which may have been halved meanwhile
                yield from self.score_clips(batch, mode)
                batch = []
        yield from self.score_clips(batch, mode)

    def score_clips(
        self, items: Sequence[Clip | Prediction], mode: str | None = None
    ) -> list[Prediction]:
        """Score decoded clips, in order. A `Prediction` passes through."""
        done = dict(self.score_as_done(items, mode))
        return [done[place] for place in range(len(items))]

    def score_as_done(
        self, items: Sequence[Clip | Prediction], mode: str | None = None
    ) -> Iterator[tuple[int, Prediction]]:
        """(place, prediction) of every item: first those that are a `Prediction` already, then the
        clips, as soon as their batch is scored.

        Clips are sorted by the length of their prompt before they are cut into batches, because
        padding is computed for nothing.
        """
        mode = _checked("mode", mode or self.mode, MODES)
        clips = {place: item for place, item in enumerate(items) if isinstance(item, Clip)}
        for place, item in enumerate(items):
            if isinstance(item, Prediction):
                yield place, replace(item, mode=mode)
        waiting = sorted(clips, key=lambda place: self._prompt_length(clips[place]))
        while waiting:
            batch = waiting[: self.batch_size]
            predictions = self._fitting([clips[place] for place in batch], mode)
            yield from zip(batch, predictions, strict=False)
            waiting = waiting[len(predictions) :]

    def _prompt_length(self, clip: Clip) -> int:
        """Tokens that stand for the clip; the text around them is the same for all."""
        return sum(self.policy.inputs.slot_tokens(clip))

    def _fitting(self, clips: list[Clip], mode: str) -> list[Prediction]:
        """Predictions of as many of the first clips as fit into memory, at least of one."""
        judges = {"reason": self._reason, "sample": self._sample, "level": self._level}
        while True:
            try:
                began = time.perf_counter()
                predictions = judges[mode](clips)
                seconds = (time.perf_counter() - began) / len(clips)
                return [self._signed(prediction, mode, seconds) for prediction in predictions]
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                message = str(error).partition("\n")[0]
            # This stands outside of `except`, whose traceback holds the tensors that have to go.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if len(clips) == 1:
                path = clips[0].path
                row = Prediction(path=path, score=None, status=OUT_OF_MEMORY, error=message)
                return [self._signed(row, mode)]
            self.batch_size = len(clips) // 2
            logger.warning(
                "out of memory with %d videos at once; going on with %d",
                len(clips),
                self.batch_size,
            )
            clips = clips[: self.batch_size]

    def _reason(self, clips: list[Clip]) -> list[Prediction]:
        groups = self._generate(
            clips, 1, Sampling(max_new_tokens=self.max_new_tokens, temperature=0.0)
        )
        return [judged(clip, *group[0]) for clip, group in zip(clips, groups, strict=True)]

    def _sample(self, clips: list[Clip]) -> list[Prediction]:
        sampling = Sampling(max_new_tokens=self.max_new_tokens, temperature=1.0)
        groups = self._generate(clips, self.num_samples, sampling)
        return [
            of_draws([judged(clip, *draw) for draw in group])
            for clip, group in zip(clips, groups, strict=True)
        ]

    def _level(self, clips: list[Clip]) -> list[Prediction]:
        question = ask(LEVEL_QUESTION)
        asked = [Prompt(clips=(clip,), turns=question) for clip in clips]
        requests = encode_prompts(self.policy, asked)
        shares = level_probabilities(self.policy, requests).tolist()
        return [
            of_levels(clip, tuple(zip(LEVEL_SCORES, row, strict=True)))
            for clip, row in zip(clips, shares, strict=True)
        ]

    def _generate(
        self, clips: list[Clip], num_generations: int, sampling: Sampling
    ) -> list[list[tuple[str, int]]]:
        """(text, number of tokens) of each completion of each clip."""
        requests = encode_prompts(self.policy, [Prompt(clips=(clip,)) for clip in clips])
        groups = self.rollout.generate(requests, num_generations, sampling, seed=self.seed)
        return [self._texts(group) for group in groups]

    def _texts(self, group: list[Completion]) -> list[tuple[str, int]]:
        ids = [completion.token_ids for completion in group]
        texts = self.policy.processor.batch_decode(ids, skip_special_tokens=True)
        return [(text, len(row)) for text, row in zip(texts, ids, strict=True)]


def _checked(name: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(known)}")
    return value
