"""Scoring: a video goes in, a `Prediction` with a score and its reasoning comes out; an example of
any task goes in, a `Prediction` with its answer comes out. What cannot be answered gives a
`Prediction`, too, which says why.

`QualityScorer` is what `single_infer.py`, `batch_infer.py`, the `thinker` command and the trainer's
held-out evaluation use, so all of them share one clip reader, one prompt, one encoder and one
parser. It has four modes with one interface:

- `reason`: the greedy completion, with `<think>` and `<answer>`;
- `sample`: K rollouts; the mean of scores and their spread, of other answers the majority;
- `expected`: as `reason`, and the mean of the scores that may stand in its answer, by their
  probabilities (expected.py); for scores only;
- `level`: one forward and a softmax over level words, no text; for scores and levels only.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from thinker.config.run import BACKENDS
from thinker.data.examples import Example
from thinker.policies import MotionConfig, Policy, load_policy
from thinker.policies.encode import Encode, EncodedPrompt, encode_prompts
from thinker.policies.hub import local_folder
from thinker.policies.inputs import Prompt
from thinker.policies.policy import is_plain
from thinker.prompts import Turn
from thinker.rollout.base import Completion, Rollout, Sampling
from thinker.rollout.build import scoring_rollout
from thinker.score.calibration import Calibration, find_calibrations, question_text
from thinker.score.confidence import with_confidence
from thinker.score.conversation import Conversation
from thinker.score.detail import Located, Wish, check_picture, description, grounding, locate
from thinker.score.expected import AnswerTree
from thinker.score.levels import level_probabilities
from thinker.score.prediction import (
    OUT_OF_MEMORY,
    PROMPT_TOO_LONG,
    Prediction,
    failed,
    judged,
    of_draws,
    of_expected,
    of_levels,
)
from thinker.score.question import (
    Question,
    asked,
    blank_row,
    medium_kind,
    prompt_of,
    read_questions,
)
from thinker.score.timeline import Moment, moments
from thinker.tasks.level import LEVELS
from thinker.utils.tensors import out_of_memory
from thinker.video import Clip, ClipSpec, Medium, VideoError, medium, read_clip
from thinker.video.medium import Source
from thinker.video.read import clip_from_frames
from thinker.video.read_ahead import Read, Reading
from thinker.video.sources.frames import Still

logger = logging.getLogger(__name__)

MODES = ("reason", "sample", "level", "expected")
LEVEL_TASKS = ("score", "level")
"""The tasks of mode "level"."""
MIN_KEPT = 0.5
"""Of the probability has to be kept; else the greedy answer stands in mode "expected"."""
BATCH_SIZE, CPU_BATCH_SIZE = 64, 8
"""How many questions are answered at once where nothing else is asked for, on a GPU and on a CPU.
Larger batches gain a CPU little, tiny policies apart, and delay the first result."""

Requests = list[EncodedPrompt]
Frames = torch.Tensor | np.ndarray
Video = str | Path | Medium | Frames
HERE = Reading(num_workers=0)


class QualityScorer:
    """Scores videos with a policy.

    rollout: the back end that generates. Where none is given, the first generation starts the one
        that `backend` names (mode "level" starts none).
    mode: one of `MODES`.
    num_samples: K of mode "sample", drawn at temperature 1 from `seed`.
    batch_size: how many questions are answered at once; chosen by the device where it is None. When
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
        check_settings(
            mode=mode,
            backend=backend,
            num_samples=num_samples,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
        )
        self.policy = policy
        self._given_rollout = rollout
        self._max_prompt_tokens: int | None = None
        self.backend, self.mode = backend, mode
        self.num_samples, self.max_new_tokens = num_samples, max_new_tokens
        self.batch_size, self.seed = batch_size, seed
        self.model_name, self.version = model_name, version("vqa-thinker")
        self.calibrations: dict[str, Calibration] = {}
        """By mode: where the intervals of scores come from."""
        self.encode: Encode | None = None
        """How clips become embeddings, for a conversation that keeps them; None runs the policy."""

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        device: str | None = None,
        calibration: str | None = None,
        **settings,
    ) -> "QualityScorer":
        """Load a saved policy, or a plain checkpoint, which has no motion branch: in bfloat16 on a
        GPU, in float32 on the CPU.

        device: such as "cuda:1" or "cpu"; a GPU where there is one, if it is None.
        calibration: key of the data set whose calibration gives scores an interval, where the
            policy has several (`thinker calibrate`); None takes the only one.
        settings: keyword arguments of the constructor, such as `backend`.

        Raises ValueError for a folder without a readable model, and for a calibration that is not
        this policy's.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        try:
            local = local_folder(folder)
            motion = None
            if is_plain(local):  # a branch of drawn weights would speak to it of nothing
                motion = MotionConfig(mode="none")
                logger.warning("%s is a plain checkpoint: no motion branch, no training", folder)
            policy = load_policy(local, dtype=dtype, motion=motion)
        except (ValueError, OSError, KeyError, SafetensorError) as error:  # not all name the folder
            raise ValueError(f"no policy can be loaded from {folder}: {error}") from error
        policy.model.to(device).eval()
        logger.info("%s on %s in %s", folder, device, str(dtype).removeprefix("torch."))
        scorer = cls(policy, model_name=str(folder), **settings)
        scorer.calibrations = find_calibrations(local, calibration, MODES, scorer.num_samples)
        return scorer

    @cached_property
    def rollout(self) -> Rollout:
        """The back end that generates, started when it is first asked for."""
        return self._given_rollout or scoring_rollout(
            self.policy,
            self.backend,
            max_new_tokens=self.max_new_tokens,
            max_prompt_tokens=self._max_prompt_tokens,
        )

    def prepare(self, examples: Sequence[Example]) -> None:
        """Make sure that these examples can be asked, and that the engine takes the longest prompt
        of them. Raises ValueError that names the example whose turns cannot be.

        An engine is sized when it starts, for a question about one video if nothing else is known;
        one that has started with less room is started anew. Back end "hf" needs none of this.
        """
        inputs = self.policy.inputs
        for example in examples:
            if example.turns:
                try:
                    inputs.check_turns(example.turns)
                except ValueError as error:
                    raise ValueError(f"example {example.id}: {error}") from None
        self.make_room(
            {(tuple(m.kind for m in e.media), e.turns) for e in examples},
            said=inputs.max_said_tokens(e.media for e in examples),
        )

    def make_room(
        self,
        prompts: set[tuple[tuple[str, ...], tuple[Turn, ...]]],
        *,
        said: int = 0,
        at_least: int = 0,
    ) -> None:
        """Make sure that the engine takes prompts with media of these kinds and these turns; see
        `prepare`. said: tokens of what a prompt says of stalls. at_least: tokens, where it has to
        be started anew."""
        if self.backend == "hf" or self._given_rollout is not None:
            return
        inputs = self.policy.inputs
        if not said:
            prompts = prompts - {(("video",), ())}  # what every engine takes
        longest = inputs.max_tokens_of(prompts) + said if prompts else 0
        longest = min(longest, self.policy.context_tokens)  # longer ones become rows
        if longest <= (self._max_prompt_tokens or inputs.max_prompt_tokens()):
            return
        self._max_prompt_tokens = min(max(longest, at_least), self.policy.context_tokens)
        started = self.__dict__.pop("rollout", None)
        if started is not None:
            started.close()

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
        (seconds); or a `Medium`, which has its own range. A list of paths gives a list of
        predictions. Where a medium says where it stalls, the prompt says so.

        Frames are uint8 RGB, a tensor (T, 3, H, W) or an array (T, H, W, 3), and count as 25 fps.
        """
        if isinstance(video, Video):
            return self._score_all([video], start, end, mode)[0]
        return self._score_all(video, start, end, mode)

    def _score_all(self, videos, start, end, mode) -> list[Prediction]:
        clips = (self.read(video, start=start, end=end) for video in videos)
        return list(self.answer_stream(map(_scoring_question, clips), mode=mode))

    def ask(
        self,
        media: Video | Clip | Sequence[Video | Clip],
        question: str,
        *,
        system: str | None = None,
        task: str = "open",
        mode: str | None = None,
    ) -> Prediction:
        """Ask about one or several videos and images, or parts of them (`thinker.video.medium`), or
        clips that were read before.

        question, system, task: as `thinker.score.question.asked` takes them. A medium that cannot
        be read is a row with its status; ValueError for what cannot be asked.

        Example: `scorer.ask(["a.mp4", "b.mp4"], "Which one is sharper?").answer`.
        """
        media = _some(media)
        wanted = asked(question, task=task, system=system, num_media=len(media))
        self.policy.inputs.check_turns(wanted.turns)
        check_mode(_checked("mode", mode or self.mode, MODES), task)
        clips = []
        for each in media:
            clip = each if isinstance(each, Clip) else self.read(each)
            if isinstance(clip, Prediction):
                return replace(clip, task=task)
            clips.append(clip)
        kinds = tuple(clip.kind for clip in clips)
        self.make_room({(kinds, wanted.turns)}, said=self.policy.inputs.said_tokens(clips))
        (prediction,) = self.answer_stream([replace(wanted, clips=tuple(clips))], mode=mode)
        return prediction

    def ground(
        self,
        source: Source,
        *,
        question: str | None = None,
        at: Sequence[float] | None = None,
        frames: int | None = None,
    ) -> Located | list[Located]:
        """What impairs a picture, and where; of a video a list, one for each chosen frame.

        question: instead of that for all distortions. at: seconds; without them, `frames` (4)
        evenly spaced ones. ValueError for what cannot be asked.

        Example: `scorer.ground("a.png").drawn().save("boxes.png")`.
        """
        found = self.locate(source, grounding(question), at=at, frames=frames)
        return next(found) if medium(source).kind == "image" else list(found)

    def describe(
        self, image: Source, *, brief: bool = False, distortion: str | None = None
    ) -> Located:
        """A description of a picture in four steps; in three points, or of one kind of distortion.

        Example: `scorer.describe("a.png").parts.level`.
        """
        wish = description(brief=brief, distortion=distortion)
        check_picture(image)
        return next(self.locate(image, wish))

    def locate(
        self,
        source: Source,
        wish: Wish,
        *,
        at: Sequence[float] | None = None,
        frames: int | None = None,
    ) -> Iterator[Located]:
        """As `ground`, of any wish (`thinker.score.detail`), each as soon as it is there."""
        return locate(self._look, source, self.clip_spec, wish, at=at, frames=frames)

    def _look(self, still: Still | VideoError, wish: Wish) -> Prediction:
        if isinstance(still, VideoError):
            return replace(self.failed(still), task=wish.task)
        return self.ask(still.clip, wish.question, system=wish.system, task=wish.task)

    def conversation(
        self,
        media: Video | Sequence[Video | Clip] | Clip,
        *,
        system: str | None = None,
        temperature: float = 0.0,
    ) -> Conversation:
        """A conversation about media, which are read and encoded once.

        media: also clips that were read before. Raises `VideoError` where one cannot be read.
        """
        clips = []
        for each in _some(media):
            if not isinstance(each, str | Path | Medium | Clip):
                each = clip_from_frames(each, self.clip_spec)
            clips.append(each if isinstance(each, Clip) else read_clip(each, self.clip_spec))
        return Conversation(self, clips, system=system, temperature=temperature)

    def timeline(
        self,
        video: str | Path | Medium,
        *,
        window_seconds: float,
        question: str | None = None,
        system: str | None = None,
        task: str = "open",
        mode: str | None = None,
        reading: Reading = HERE,
    ) -> Iterator[Moment]:
        """The score of every window of a video, in order, while it is read; or the answer to a
        question that is asked of each. Memory does not grow with the length of the video.

        window_seconds: of `thinker.video.sources.windows.Windows`. question, system, task: as those
        of `ask`. A window that cannot be answered is a row with its status; a file that cannot be
        opened is one. Raises ValueError for what cannot be asked.

        Example: `[moment.prediction.score for moment in scorer.timeline("a.mp4",
        window_seconds=2)]`.
        """
        wanted = Question() if question is None else asked(question, task=task, system=system)
        if wanted.turns:
            self.policy.inputs.check_turns(wanted.turns)
        check_mode(_checked("mode", mode or self.mode, MODES), wanted.task)
        shown = medium(video)
        said = self.policy.inputs.max_said_tokens([[shown]])
        self.make_room({(("video",), wanted.turns)}, said=said)
        return moments(
            shown,
            window_seconds,
            self.clip_spec,
            partial(self.answer_stream, mode=mode),
            wanted,
            reading,
            ahead=self.batch_size,
        )

    def predict(
        self, examples: Sequence[Example], *, mode: str | None = None, read: Read | None = None
    ) -> list[Prediction]:
        """Answer examples of any task, in order; media are read in this process.

        read: how a medium becomes a clip, for a caller that keeps clips; None reads the file.
        """
        return list(self.predict_stream(examples, HERE, mode=mode, read=read))

    def predict_stream(
        self,
        examples: Sequence[Example],
        reading: Reading,
        *,
        mode: str | None = None,
        read: Read | None = None,
    ) -> Iterator[Prediction]:
        """As `predict`, while workers read the media of the next batch."""
        self.prepare(examples)
        read = read or partial(read_clip, spec=self.clip_spec)
        items = read_questions(examples, read, reading, ahead=self.batch_size)
        yield from self.answer_stream(items, mode=mode)

    def read(
        self, video: Video, *, start: float | None = None, end: float | None = None
    ) -> Clip | Prediction:
        """The clip of a file or of frames, or the row of what cannot be read."""
        try:
            if isinstance(video, str | Path | Medium):
                return read_clip(medium(video, start=start, end=end), self.clip_spec)
            return clip_from_frames(video, self.clip_spec, start=start, end=end)
        except VideoError as error:
            return self.failed(error)

    def failed(self, error: VideoError) -> Prediction:
        """The prediction of a video that could not be read."""
        return self.signed(failed(error), self.mode)

    def signed(self, prediction: Prediction, mode: str, seconds: float = 0.0) -> Prediction:
        """A row with what this scorer says of itself."""
        return replace(
            prediction, mode=mode, seconds=seconds, model=self.model_name, version=self.version
        )

    def answer_stream(
        self, items: Iterable[Question | Prediction], *, mode: str | None = None
    ) -> Iterator[Prediction]:
        """Answer questions in batches, in order. A `Prediction` (of a medium that could not be
        read) passes through and counts as one of its batch."""
        batch: list[Question | Prediction] = []
        for item in items:
            batch.append(item)
            if len(batch) >= self.batch_size:  # which may have been halved meanwhile
                yield from self._in_order(batch, mode)
                batch = []
        yield from self._in_order(batch, mode)

    def score_clips(
        self, items: Sequence[Clip | Prediction], mode: str | None = None
    ) -> list[Prediction]:
        """Score decoded clips, in order. A `Prediction` passes through."""
        return self._in_order([_scoring_question(item) for item in items], mode)

    def _in_order(self, items: Sequence[Question | Prediction], mode) -> list[Prediction]:
        done = dict(self.answer_as_done(items, mode))
        return [done[place] for place in range(len(items))]

    def answer_as_done(
        self, items: Sequence[Question | Prediction], mode: str | None = None
    ) -> Iterator[tuple[int, Prediction]]:
        """(place, prediction) of each item: those that are predictions at once, then questions, as
        soon as their batch is done.

        Questions are sorted by the length of their prompt before they are cut into batches, because
        padding is computed for nothing.
        """
        mode = _checked("mode", mode or self.mode, MODES)
        asked = {place: item for place, item in enumerate(items) if isinstance(item, Question)}
        for place, item in enumerate(items):
            if isinstance(item, Prediction):
                yield place, self.signed(item, mode)
            else:
                check_mode(mode, item.task)
        lengths = {place: self._prompt_length(item, mode) for place, item in asked.items()}
        room = self.policy.context_tokens
        for place in [place for place, length in lengths.items() if length >= room]:
            error = f"the prompt has {lengths[place]} tokens, the model's context {room}"
            row = replace(blank_row(asked.pop(place)), status=PROMPT_TOO_LONG, error=error)
            yield place, self.signed(replace(row, frame_indices=()), mode)
        waiting = sorted(asked, key=lambda place: lengths[place])
        while waiting:
            batch = waiting[: self.batch_size]
            predictions = self._fitting([asked[place] for place in batch], mode)
            yield from zip(batch, predictions, strict=False)
            waiting = waiting[len(predictions) :]

    def _prompt_length(self, question: Question, mode: str) -> int:
        return len(self.policy.inputs.prompt_ids(self._prompt(question, mode)))

    def _fitting(self, questions: list[Question], mode: str) -> list[Prediction]:
        """Predictions of as many of the first questions as fit into memory, at least of one."""
        judges = {
            "reason": self._reason,
            "sample": self._sample,
            "level": self._level,
            "expected": self._expected,
        }
        while True:
            try:
                began = time.perf_counter()
                requests = self._encoded(questions, mode)
                predictions = self._with_intervals(
                    judges[mode](questions, requests), questions, requests, mode
                )
                seconds = (time.perf_counter() - began) / len(questions)
                return [self.signed(prediction, mode, seconds) for prediction in predictions]
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                message = str(error).partition("\n")[0]
            # This stands outside of `except`, whose traceback holds the tensors that have to go.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if len(questions) == 1:
                row = replace(blank_row(questions[0]), status=OUT_OF_MEMORY, error=message)
                return [self.signed(replace(row, frame_indices=()), mode)]
            self.batch_size = len(questions) // 2
            logger.warning(
                "out of memory with %d questions at once; going on with %d",
                len(questions),
                self.batch_size,
            )
            questions = questions[: self.batch_size]

    def _with_intervals(
        self,
        rows: list[Prediction],
        questions: list[Question],
        requests: Requests,
        mode: str,
    ) -> list[Prediction]:
        """Rows with what this mode's calibration says of them."""
        calibration = self.calibrations.get(mode)
        if calibration is None:
            return rows
        return [
            calibration.applied(row, question_text(question.turns), request.embeds)
            for row, question, request in zip(rows, questions, requests, strict=True)
        ]

    def _reason(self, questions: list[Question], requests: Requests) -> list[Prediction]:
        sampling = Sampling(max_new_tokens=self.max_new_tokens, temperature=0.0)
        return [draws[0] for draws in self._draws(questions, requests, 1, sampling)]

    def _sample(self, questions: list[Question], requests: Requests) -> list[Prediction]:
        sampling = Sampling(max_new_tokens=self.max_new_tokens, temperature=1.0)
        draws = self._draws(questions, requests, self.num_samples, sampling)
        return [of_draws(of_one) for of_one in draws]

    def _expected(self, questions: list[Question], requests: Requests) -> list[Prediction]:
        found = self._answer_tree.followed(self.rollout, requests, self.max_new_tokens)
        rows = []
        for question, (completion, expected) in zip(questions, found, strict=True):
            ((text, num_tokens),) = self._texts([completion])
            row = judged(blank_row(question), text, num_tokens, self._reference(question))
            if expected is not None:
                row = replace(row, num_tree_tokens=expected.num_forwarded)
                if row.score is not None and expected.kept >= MIN_KEPT:
                    row = of_expected(row, expected.distribution, expected.kept)
            rows.append(row)
        return rows

    @cached_property
    def _answer_tree(self) -> AnswerTree:
        return AnswerTree(self.policy)

    def _level(self, questions: list[Question], requests: Requests) -> list[Prediction]:
        kinds = list(map(medium_kind, questions))
        shares = level_probabilities(self.policy, requests, kinds).tolist()
        scores = self.policy.inputs.levels.scores
        return [
            of_levels(blank_row(question), tuple(zip(scores, row, strict=True)))
            for question, row in zip(questions, shares, strict=True)
        ]

    def _encoded(self, questions: list[Question], mode: str) -> Requests:
        prompts = [self._prompt(question, mode) for question in questions]
        return encode_prompts(self.policy, prompts, self.encode)

    def _draws(
        self,
        questions: list[Question],
        requests: Requests,
        num_generations: int,
        sampling: Sampling,
    ) -> list[list[Prediction]]:
        """What each completion of each question makes."""
        groups = self.rollout.generate(requests, num_generations, sampling, seed=self.seed)
        read_by = [self._reference(question) for question in questions]
        rows = [
            [judged(blank_row(q), *draw, reference) for draw in self._texts(group)]
            for q, group, reference in zip(questions, groups, read_by, strict=True)
        ]
        if num_generations == 1:
            said = [group[0].token_ids for group in groups]
            alone = [row for (row,) in rows]
            return [[row] for row in with_confidence(self.policy, requests, said, alone, read_by)]
        return rows

    def _reference(self, question: Question) -> Any:
        """What answers are read by: of levels by the policy's own words, where it has some."""
        words = self.policy.inputs.levels.words
        if question.task == "level" and question.reference is not None and words != LEVELS:
            return replace(question.reference, levels=words)
        return question.reference

    def _prompt(self, question: Question, mode: str) -> Prompt:
        return prompt_of(question, self.policy.inputs.levels if mode == "level" else None)

    def _texts(self, group: list[Completion]) -> list[tuple[str, int]]:
        ids = [completion.token_ids for completion in group]
        texts = self.policy.processor.batch_decode(ids, skip_special_tokens=True)
        return [(text, len(row)) for text, row in zip(texts, ids, strict=True)]


def check_settings(
    *, mode: str, backend: str, num_samples: int, max_new_tokens: int, batch_size: int = 1
) -> None:
    """Raises ValueError for settings of a scorer that make no sense."""
    _checked("mode", mode, MODES)
    _checked("backend", backend, BACKENDS)
    least = {"num_samples": 2, "max_new_tokens": 1, "batch_size": 1}
    given = {"num_samples": num_samples, "max_new_tokens": max_new_tokens, "batch_size": batch_size}
    for name, value in given.items():
        if value < least[name]:
            raise ValueError(f"{name} is {value}, expected at least {least[name]}")


def check_mode(mode: str, task: str) -> None:
    """Raises ValueError where a task has no such mode."""
    if mode == "level" and task not in LEVEL_TASKS:
        raise ValueError(
            f"mode level is for the tasks {', '.join(LEVEL_TASKS)}, not for {task!r}; "
            "use mode reason or sample"
        )
    if mode == "expected" and task != "score":
        raise ValueError(f"mode expected is for the task score, not for {task!r}; use mode reason")


def _listed(media: Any) -> list[Any]:
    return [media] if isinstance(media, Video | Clip) else list(media)


def _some(media: Any) -> list[Any]:
    listed = _listed(media)
    if not listed:
        raise ValueError("no video or image is given to ask about; name at least one")
    return listed


def _scoring_question(item: Clip | Prediction) -> Question | Prediction:
    return Question(clips=(item,)) if isinstance(item, Clip) else item


def _checked(name: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(known)}")
    return value
