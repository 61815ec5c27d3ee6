"""A policy as a model of lmms-eval: `lmms-eval --model thinker --model_args pretrained=POLICY`.

In: requests, each a document of a task. Out: a text each. Documents of our tasks are answered as
`thinker eval` and `thinker bench` answer them, window by window; those of other tasks are asked as
`thinker ask` does. lmms-eval loads this module by the entry point; nothing else imports it.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.model import lmms

from thinker.data.examples import Example
from thinker.eval.run import windows
from thinker.peers.lmms_eval.answers import example_of, said
from thinker.peers.lmms_eval.messages import question_of
from thinker.score.prediction import Prediction
from thinker.score.question import Question
from thinker.score.scorer import QualityScorer
from thinker.score.stream import window_predictions
from thinker.utils.progress import Progress
from thinker.utils.tensors import gpu_of_process
from thinker.video.read_ahead import Reading

logger = logging.getLogger(__name__)

SCORE_MODES = ("level", "expected")
"""Modes that answer no free question."""


class ThinkerModel(lmms):
    """The model `thinker`.

    pretrained: the policy, a folder or its name on a hub. mode, backend, num_samples,
    max_new_tokens, calibration: as the options of `thinker eval`. num_workers, timeout: decoding
    processes of our tasks, and seconds of one video. batch_size: questions at once; "auto" lets the
    device decide. device: a GPU where there is one, if it is not given.

    The policy decodes greedily, or as its mode says, and has `max_new_tokens` for reasoning and
    answer: what a task says of lengths, ends and temperature is not followed, because a reasoning
    of 16 tokens has no answer.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        *,
        mode: str = "reason",
        backend: str = "hf",
        num_samples: int = 8,
        max_new_tokens: int = 1024,
        calibration: str | None = None,
        num_workers: int = 2,
        timeout: float = 300.0,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        self.reading = Reading(num_workers=num_workers, timeout_seconds=timeout)
        self.scorer = QualityScorer.from_pretrained(
            Path(pretrained),
            device=(gpu_of_process() if device in (None, "cuda") else None) or device,
            calibration=calibration,
            mode=mode,
            backend=backend,
            num_samples=num_samples,
            max_new_tokens=max_new_tokens,
            batch_size=None if batch_size in (None, "auto") else int(batch_size),
        )
        self._rank = int(os.environ.get("RANK", "0"))
        self._world_size = int(os.environ.get("WORLD_SIZE", "1"))

    @property
    def device(self) -> torch.device:
        """Where the policy is."""
        return self.scorer.policy.model.device

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The text of each request, in order."""
        texts: dict[int, str] = {}
        with Progress(len(requests), unit="question", name="lmms-eval") as progress:
            for places in _by_task(requests):
                for place, text in self._answered([requests[place] for place in places]):
                    texts[places[place]] = text
                    progress.update()
        return [texts[place] for place in range(len(requests))]

    def _answered(self, requests: Sequence[Any]) -> Iterator[tuple[int, str]]:
        """Requests of one task → (place, text)."""
        examples = [example_of(self._document(request)) for request in requests]
        if all(examples):
            yield from self._as_we_evaluate([example for example in examples if example])
        else:
            yield from enumerate(self._as_asked(requests))

    def _as_we_evaluate(self, examples: list[Example]) -> Iterator[tuple[int, str]]:
        self.scorer.prepare(examples)
        parts = windows(len(examples))
        for place, row in window_predictions(self.scorer, examples, parts, self.reading):
            yield place, said(row)

    def _as_asked(self, requests: Sequence[Any]) -> Iterator[str]:
        """Documents of a task that is not ours, with the reasoning left out."""
        mode = self.scorer.mode
        if mode in SCORE_MODES:
            logger.warning("mode %s is for scores; another task is answered in mode reason", mode)
            mode = "reason"
        questions = map(self._question, requests)
        for row in self.scorer.answer_stream(questions, mode=mode):
            yield said(row, whole=False)

    def _question(self, request: Any) -> Question | Prediction:
        _, doc_to_messages, _, doc_id, task, _ = request.args
        messages = doc_to_messages(self._document(request))
        return question_of(messages, self.scorer, f"document {doc_id} of {task}")

    def _document(self, request: Any) -> Any:
        *_, doc_id, task, split = request.args
        return self.task_dict[task][split][doc_id]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not to be had: a policy writes its answers."""
        raise NotImplementedError(
            "the model thinker answers tasks of output_type generate_until, not loglikelihood or "
            "multiple_choice; choose the generating form of the task"
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not to be had."""
        raise NotImplementedError(
            "the model thinker answers tasks of output_type generate_until, one question each"
        )


def _by_task(requests: Sequence[Any]) -> list[list[int]]:
    """Places of the requests of each task and split, in order."""
    found: dict[tuple[str, str], list[int]] = {}
    for place, request in enumerate(requests):
        *_, task, split = request.args
        found.setdefault((task, split), []).append(place)
    return list(found.values())
