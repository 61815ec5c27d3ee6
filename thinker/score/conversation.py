"""A conversation about media that are encoded once: several questions, answers as they are written.

In: clips and a question after the other. Out: pieces of text, then a `Prediction`; the pictures
that the policy saw; its score and levels, from the same embeddings. A follow-up passes neither the
vision tower nor the motion branch, and with back end "hf" no token that was forwarded before
(`thinker.rollout.session`). The answer is that of the whole conversation asked in one prompt.
"""

import time
from collections.abc import Hashable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from thinker.policies import Policy
from thinker.policies.encode import Encode, EncodedPrompt, encode_prompts, run_policy
from thinker.prompts import Turn, count_placeholders
from thinker.rollout.base import Rollout, Sampling
from thinker.rollout.hf import HfRollout
from thinker.rollout.session import HfSession
from thinker.score.prediction import OUT_OF_MEMORY, PROMPT_TOO_LONG, Prediction, judged
from thinker.score.question import Question, asked, blank_row, check_num_media, prompt_of
from thinker.utils.tensors import out_of_memory
from thinker.video import Clip

SPARE_TOKENS = 1024
"""Room for turns to come, of an engine that has to be started with its size."""
UNFINISHED = "\ufffd"
"""What a tokenizer writes for the bytes of a character that is not complete yet."""


class Scorer(Protocol):
    """What a conversation needs of a `QualityScorer`."""

    policy: Policy
    encode: Encode | None
    max_new_tokens: int
    seed: int

    @property
    def rollout(self) -> Rollout: ...

    def make_room(
        self,
        prompts: set[tuple[tuple[str, ...], tuple[Turn, ...]]],
        *,
        said: int = 0,
        at_least: int = 0,
    ) -> None: ...

    def signed(self, prediction: Prediction, mode: str, seconds: float = 0.0) -> Prediction: ...

    def answer_stream(
        self, items: Sequence[Question], *, mode: str | None = None
    ) -> Iterator[Prediction]: ...


class KeptFeatures:
    """The embeddings of clips, by their key; each clip passes the policy once."""

    def __init__(self, policy: Policy):
        self._policy = policy
        self._kept: dict[Hashable, torch.Tensor] = {}

    def __call__(self, clips: list[Clip]) -> list[torch.Tensor]:
        new = [clip for clip in clips if clip.key not in self._kept]
        if new:
            embeds = run_policy(self._policy, new)
            self._kept |= zip([clip.key for clip in new], embeds, strict=True)
        return [self._kept[clip.key] for clip in clips]


@dataclass(frozen=True, kw_only=True)
class SeenFrame:
    """A picture that the policy saw."""

    medium: int
    """Number of its medium in the conversation, from 0."""
    seconds: float
    """When it is shown, from the first frame of the video; 0 of a picture."""
    index: int
    """Its number in the file."""
    picture_HWC: np.ndarray
    """uint8 RGB, as large as the vision tower gets it. Of a large image one of its tiles, and the
    whole of it last."""


def seen_frames(clips: Sequence[Clip]) -> list[SeenFrame]:
    """The keyframes of clips, in the order in which the policy reads them."""
    return [
        SeenFrame(
            medium=number,
            seconds=float(seconds),
            index=index,
            picture_HWC=picture_CHW.permute(1, 2, 0).contiguous().numpy(),
        )
        for number, clip in enumerate(clips)
        for picture_CHW, seconds, index in zip(
            clip.keyframes_KCHW, clip.keyframe_seconds, clip.keyframe_indices, strict=True
        )
    ]


class Conversation:
    """Questions about the same media; see `QualityScorer.conversation`, which makes one.

    Not for several threads at once. Conversations of one scorer share the policy and nothing else.

    Example: `talk = scorer.conversation("a.mp4"); talk.ask("Is it sharp?").answer; talk.ask(
    "Why?").answer`.
    """

    def __init__(
        self,
        scorer: Scorer,
        clips: Sequence[Clip],
        *,
        system: str | None = None,
        temperature: float = 0.0,
    ):
        self._scorer, self.clips, self._system = scorer, tuple(clips), system
        self._temperature = temperature
        self._sampling(1)  # raises for a temperature that is none
        self._features = KeptFeatures(scorer.policy)
        self._session: HfSession | None = None
        self._num_begun = 0
        self.turns: tuple[Turn, ...] = ()
        """What was said: questions that have a text as their answer, and these."""
        self.last: Prediction | None = None
        """The row of the last question whose answer came to its end."""

    @property
    def frames(self) -> list[SeenFrame]:
        """What the policy saw of all media."""
        return seen_frames(self.clips)

    def anew(self, *, system: str | None = None, temperature: float = 0.0) -> "Conversation":
        """A conversation about the same media from its beginning; they are not encoded again."""
        talk = Conversation(self._scorer, self.clips, system=system, temperature=temperature)
        talk._features = self._features
        return talk

    def score(self, mode: str = "level") -> Prediction:
        """The quality of the one medium, as `QualityScorer.score` gives it, with the level words'
        probabilities in `distribution` (mode "level"). It is no part of the conversation. Raises
        ValueError where there are several media."""
        check_num_media("score", len(self.clips))
        if mode != "level":
            _ = self._scorer.rollout  # one engine for all conversations
        own = copy(self._scorer)
        own.encode = self._features
        (prediction,) = own.answer_stream([Question(clips=self.clips)], mode=mode)
        return prediction

    def score_stream(self) -> Iterator[str]:
        """The reasoning and score of the one medium in pieces, as `stream` gives an answer; `last`
        is then the row that `score("reason")` gives. It is no part of the conversation, and its
        sampling is that of the conversation. Raises ValueError where there are several media."""
        check_num_media("score", len(self.clips))
        return self._answered(Question(clips=self.clips), is_turn=False)

    def ask(self, question: str) -> Prediction:
        """The answer to a question, or the row that says why there is none. Raises ValueError for
        what cannot be asked; neither changes the conversation."""
        for _ in self.stream(question):
            pass
        assert self.last is not None
        return self.last

    def stream(self, question: str) -> Iterator[str]:
        """The answer in pieces, as they are written; the reasoning is part of it. Once they are
        at their end, `last` is the row, and the turns are part of the conversation. A consumer that
        stops before leaves the conversation as it was; so does an answer that was not at its end
        when the next one began, which stops it.

        A back end other than "hf" gives its answer in one piece. Raises ValueError as `ask`, before
        anything is written.
        """
        wanted = replace(self._asked(question), clips=self.clips)
        self._scorer.policy.inputs.check_turns(wanted.turns)
        return self._answered(wanted)

    def _asked(self, text: str) -> Question:
        if not self.turns:
            return asked(text, system=self._system, num_media=len(self.clips))
        follow_up = asked(text, num_media=len(self.clips))
        if count_placeholders(follow_up.turns):
            raise ValueError(
                "places of media, <image> and <video>, are marked in the first question; say "
                '"the second video" in the ones that follow'
            )
        return replace(follow_up, turns=(*self.turns, *follow_up.turns))

    def _answered(self, question: Question, *, is_turn: bool = True) -> Iterator[str]:
        began = time.perf_counter()
        self._num_begun += 1
        number = self._num_begun
        ids: list[int] = []
        row = blank_row(question)
        length = len(self._scorer.policy.inputs.prompt_ids(prompt_of(question)))
        room = self._scorer.policy.context_tokens - length
        if room <= 0:
            error = f"the prompt has {length} tokens, the model's context {length + room}"
            self.last = self._without_answer(row, PROMPT_TOO_LONG, error)
            return
        try:
            pieces = _Pieces(self._scorer.policy.processor)
            for token in self._tokens(question, room):
                ids.append(token)
                piece = pieces.add(token)
                if piece:
                    yield piece
                if number != self._num_begun:
                    return
            rest = pieces.rest()
            if rest:
                yield rest
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            message = str(error).partition("\n")[0]
            self._session = None  # its cache may be what fills the memory
            self.last = self._without_answer(row, OUT_OF_MEMORY, message)
            return
        row = judged(row, pieces.text, len(ids), question.reference)
        if is_turn:
            self.turns = (*question.turns, Turn(role="assistant", text=pieces.text))
        self.last = self._scorer.signed(row, "reason", time.perf_counter() - began)

    def _without_answer(self, row: Prediction, status: str, error: str) -> Prediction:
        row = replace(row, status=status, error=error, frame_indices=())
        return self._scorer.signed(row, "reason")

    def _tokens(self, question: Question, room: int) -> Iterator[int]:
        """Token ids of the answer, one by one where the back end can."""
        scorer = self._scorer
        (request,) = encode_prompts(scorer.policy, [prompt_of(question)], self._features)
        sampling = self._sampling(min(scorer.max_new_tokens, room))
        # An engine that is outgrown is started anew, which takes minutes: not after every turn.
        asked_of = {(tuple(clip.kind for clip in self.clips), question.turns)}
        scorer.make_room(
            asked_of,
            said=scorer.policy.inputs.said_tokens(self.clips),
            at_least=2 * len(request.token_ids) + SPARE_TOKENS,
        )
        rollout = scorer.rollout
        if isinstance(rollout, HfRollout):
            self._session = self._session or HfSession(rollout)
            yield from self._session.tokens(request, sampling, scorer.seed)
        else:
            yield from _whole(rollout, request, sampling, scorer.seed)

    def _sampling(self, max_new_tokens: int) -> Sampling:
        return Sampling(max_new_tokens=max_new_tokens, temperature=self._temperature)


def _whole(
    rollout: Rollout, request: EncodedPrompt, sampling: Sampling, seed: int
) -> Iterator[int]:
    ((completion,),) = rollout.generate([request], 1, sampling, seed=seed)
    yield from completion.token_ids


class _Pieces:
    """Token ids → the text, piece by piece, each of whole characters."""

    def __init__(self, processor: Any):
        self._processor = processor
        self._ids: list[int] = []
        self._given = 0
        self.text = ""
        """All of it so far."""

    def add(self, token: int) -> str:
        """What is to be read once this token is there; nothing in the middle of a character."""
        self._ids.append(token)
        self.text = self._processor.decode(self._ids, skip_special_tokens=True)
        return "" if self.text.endswith(UNFINISHED) else self.rest()

    def rest(self) -> str:
        """What was not given yet, also where the last character is not whole."""
        piece = self.text[self._given :]
        self._given = len(self.text)
        return piece
