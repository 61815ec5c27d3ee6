"""Scoring: a video in, a score with its reasoning out; a video that fails is a row too.

`QualityScorer` is what `single_infer.py`, `batch_infer.py`, the `thinker` command and the trainer's
held-out evaluation use: one clip reader, one prompt, one encoder, one parser.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from rewards import Answer, parse_answer
from thinker.policies import Policy, load_policy
from thinker.rollout.base import EncodedPrompt, Rollout, Sampling, encode_prompts
from thinker.rollout.build import scoring_rollout
from thinker.video import Clip, ClipSpec, VideoError, read_clip

OK, INVALID_ANSWER = "ok", "invalid_answer"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the policy said about one video.

    score: on the 1..5 answer scale, None unless status is "ok". status: "ok", "invalid_answer" (the
    text holds no valid score; it is kept in `completion`) or the reason of a `VideoError`
    ("missing", …). reasoning: the content of <think>. seconds: share of the wall clock of its
    batch.
    """

    path: Path
    score: float | None
    status: str
    reasoning: str | None = None
    completion: str | None = None
    error: str | None = None
    frame_indices: tuple[int, ...] = ()
    seconds: float = 0.0

    def to_row(self) -> dict[str, object]:
        """Plain values that JSON can hold."""
        return asdict(self) | {"path": str(self.path)}


class QualityScorer:
    """Scores videos with a policy.

    Example: `QualityScorer.from_pretrained("runs/demo/final").score("video.mp4").score`.
    """

    def __init__(
        self,
        policy: Policy,
        rollout: Rollout | None = None,
        *,
        max_new_tokens: int = 1024,
        backend: str = "hf",
    ):
        self.policy = policy
        self.rollout = rollout or scoring_rollout(policy, backend, max_new_tokens=max_new_tokens)
        self.sampling = Sampling(max_new_tokens=max_new_tokens, temperature=0.0)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, max_new_tokens: int = 1024, backend: str = "hf"
    ) -> "QualityScorer":
        """Load a saved policy; on a GPU in bfloat16, else in float32 on the CPU."""
        on_gpu = torch.cuda.is_available()
        policy = load_policy(folder, dtype=torch.bfloat16 if on_gpu else torch.float32)
        policy.model.to("cuda" if on_gpu else "cpu").eval()
        return cls(policy, max_new_tokens=max_new_tokens, backend=backend)

    @property
    def clip_spec(self) -> ClipSpec:
        return self.policy.inputs.clip_spec

    def score(
        self, path: str | Path, *, start: float | None = None, end: float | None = None
    ) -> Prediction:
        """Score one video or image file, or its part from `start` to `end` (seconds)."""
        try:
            clip = read_clip(path, self.clip_spec, start=start, end=end)
        except VideoError as error:
            return failed(Path(path), error)
        return self.score_clips([clip])[0]

    def score_clips(self, clips: Sequence[Clip]) -> list[Prediction]:
        """Score decoded clips as one batch."""
        began = time.perf_counter()
        requests = encode_prompts(self.policy, list(clips))
        texts = self._greedy(requests)
        seconds = (time.perf_counter() - began) / max(len(clips), 1)
        return [_judged(clip, text, seconds) for clip, text in zip(clips, texts, strict=True)]

    def score_stream(
        self, items: Iterable[Clip | Prediction], *, batch_size: int
    ) -> Iterator[Prediction]:
        """Score clips in batches, in order; a `Prediction` (a failed video) passes through."""
        batch: list[Clip | Prediction] = []
        for item in items:
            batch.append(item)
            if len(batch) == batch_size:
                yield from self._score_mixed(batch)
                batch = []
        yield from self._score_mixed(batch)

    def _score_mixed(self, batch: list[Clip | Prediction]) -> list[Prediction]:
        scored = iter(self.score_clips([item for item in batch if isinstance(item, Clip)]))
        return [item if isinstance(item, Prediction) else next(scored) for item in batch]

    def _greedy(self, requests: list[EncodedPrompt]) -> list[str]:
        if not requests:
            return []
        groups = self.rollout.generate(requests, 1, self.sampling, seed=0)
        return self.policy.processor.batch_decode(
            [group[0].token_ids for group in groups], skip_special_tokens=True
        )


def failed(path: Path, error: VideoError) -> Prediction:
    """The row of a video that could not be read."""
    return Prediction(path=path, score=None, status=error.reason, error=str(error))


def _judged(clip: Clip, text: str, seconds: float) -> Prediction:
    prediction = Prediction(
        path=clip.path,
        score=None,
        status=INVALID_ANSWER,
        reasoning=_reasoning(text),
        completion=text,
        frame_indices=clip.keyframe_indices,
        seconds=seconds,
    )
    answer = parse_answer(text)
    if isinstance(answer, Answer):
        return replace(prediction, score=answer.value, status=OK)
    return replace(prediction, error=f"{answer.reason}: {answer.detail}")


def _reasoning(text: str) -> str:
    """The content of <think>, or all that stands before <answer>."""
    before = text.partition("<answer>")[0]
    inner = before.partition("<think>")[2] or before
    return inner.partition("</think>")[0].strip()
