"""What one user of the app has and does, without a browser.

In: uploaded files, questions. Out: clips, answers piece by piece, rows. `Assistant` is the policy
that all users share; a `Session` is one user: files in a folder of its own, conversations. Whatever
a user can get wrong, and whatever is wrong with a file, is a ValueError whose text names the file
as the user does. Of a session nothing is left once it is closed.
"""

import contextlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from thinker.prompts import Turn
from thinker.score.conversation import Conversation, seen_frames
from thinker.score.detail import Located, description, grounding, stills
from thinker.score.prediction import Prediction
from thinker.score.scorer import QualityScorer
from thinker.score.timeline import Moment
from thinker.utils.names import path_text
from thinker.video import IMAGE_SUFFIXES, REASONS, Clip, VideoError, medium, read_clip
from thinker.video.find import VIDEO_SUFFIXES
from thinker.video.read_ahead import Reading, read_ahead

Step = TypeVar("Step")

SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES
MAX_WINDOWS = 600
"""Of a timeline in the app; longer ones are for `thinker score --timeline`."""
MAX_SESSIONS = 32
"""So many users have files and conversations at once. Of more, the one that was idle longest loses
them: each holds features and a cache of keys and values in the policy's memory."""
IDLE_SECONDS = 3600.0
"""A session that is not used for so long is closed, should its browser never have said goodbye."""


@dataclass(frozen=True, kw_only=True)
class AppLimits:
    """What a user may ask for."""

    max_upload_mb: int = 200
    """The largest file, in 10^6 bytes. The server stops an upload there, before anything is
    decoded, and a session checks it again."""

    def __post_init__(self) -> None:
        if self.max_upload_mb < 1:
            raise ValueError(f"max_upload_mb is {self.max_upload_mb}, expected at least 1")


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A medium of a session."""

    name: str
    """What its user calls it, as text of one line."""
    path: Path
    """The file in the session's own folder."""
    clip: Clip
    """What the policy reads of it."""

    @property
    def frames(self):
        """The pictures that the policy sees."""
        return seen_frames([self.clip])


@dataclass(frozen=True, kw_only=True)
class Said:
    """An answer so far."""

    text: str
    """All that is written, reasoning included."""
    row: Prediction | None = None
    """What became of it, with the last piece only; None for good where a newer question stopped
    it."""


class Assistant:
    """The policy, and the sessions of all users. Safe for several threads.

    folder: files of sessions lie below it. reading: of uploads; workers keep a file that crashes
    its decoder away from this process.
    """

    def __init__(
        self,
        scorer: QualityScorer,
        folder: Path,
        *,
        limits: AppLimits | None = None,
        reading: Reading | None = None,
    ):
        self.scorer, self.folder = scorer, folder
        self.limits = limits or AppLimits()
        self.reading = reading or Reading(num_workers=1, timeout_seconds=120.0)
        self.lock = threading.Lock()
        """Held for every step of the policy, a token of one answer, never for a whole one: so
        answers of several users are written side by side, and none waits for a lost browser."""
        self._sessions: dict[str, Session] = {}
        self._registry = threading.Lock()

    def session(self, key: str) -> "Session":
        """The session of a user, a new one where there is none."""
        with self._registry:
            found = self._sessions.get(key)
            if found is None:
                found = self._sessions[key] = Session(self)
            found.used = time.monotonic()
            surplus = self._surplus(found.used)
        for other in surplus:
            other.close()
        return found

    def _surplus(self, now: float) -> "list[Session]":
        """Take idle sessions out of the registry."""
        by_age = sorted(self._sessions, key=lambda key: self._sessions[key].used)
        excess = max(len(by_age) - MAX_SESSIONS, 0)
        return [
            self._sessions.pop(key)
            for place, key in enumerate(by_age)
            if place < excess or now - self._sessions[key].used > IDLE_SECONDS
        ]

    def end(self, key: str) -> None:
        """Forget a user: files, clips, features and conversations."""
        with self._registry:
            found = self._sessions.pop(key, None)
        if found is not None:
            found.close()

    def close(self) -> None:
        """End all sessions."""
        for key in list(self._sessions):
            self.end(key)

    def steps(self, steps: Iterator[Step]) -> Iterator[Step]:
        """The same, each step while the policy is free of others."""
        while True:
            with self.lock:
                try:
                    step = next(steps)
                except StopIteration:
                    return
            yield step


class Session:
    """One user. A medium stands at a place, such as "assess" or "first"; a conversation is about
    those of one or several places."""

    def __init__(self, assistant: Assistant):
        self._assistant = assistant
        # A name that no other user can guess: the server hands out files by their path.
        self.folder = assistant.folder / secrets.token_hex(16)
        self.used = time.monotonic()
        """When it was last asked for, on the monotonic clock."""
        self._media: dict[str, Loaded] = {}
        self._uploads: set[Path] = set()
        self._bases: dict[tuple[str, ...], Conversation] = {}
        self._talks: dict[tuple[str, ...], Conversation] = {}
        self._settings: dict[tuple[str, ...], tuple[str | None, float]] = {}
        self._writing: Iterator[Said] | None = None
        self._count = 0
        self._closed = False

    # media

    def take(self, place: str, upload: Path, name: str | None = None) -> Loaded:
        """Read a file that was uploaded, or an example, in the place of what stood there.

        name: what the user calls it; that of the file, if it is None. Raises ValueError that names
        it, for a file that is too large or cannot be read; the place is then empty.
        """
        self.drop(place)
        name = path_text(name or upload.name)
        own = self._own_file(upload, name)
        try:
            clip = self._read(own, name)
        except ValueError:
            own.unlink(missing_ok=True)
            raise
        loaded = Loaded(name=name, path=own, clip=clip)
        self._media[place] = loaded
        if self._closed:  # while it was read
            self.close()
            raise ValueError(f"{name}: the session has ended; load the page again")
        return loaded

    def _own_file(self, upload: Path, name: str) -> Path:
        limit = self._assistant.limits.max_upload_mb
        try:
            size = upload.stat().st_size
            if size > limit * 10**6:
                raise ValueError(
                    f"{name} has {size / 1e6:.0f} MB, at most {limit} MB are taken; cut it, or "
                    "start the app with a larger --max-upload"
                )
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._count += 1
            suffix = Path(name).suffix.lower()
            own = self.folder / f"{self._count}{suffix if suffix in SUFFIXES else ''}"
            # A second name of the same bytes: the server's own copy may be another user's, too.
            try:
                os.link(upload, own)
            except OSError:  # another file system
                shutil.copyfile(upload, own)
        except FileNotFoundError:
            raise ValueError(f"{name} is no longer there; upload it again") from None
        return own

    def _read(self, own: Path, name: str) -> Clip:
        read = partial(read_clip, spec=self._assistant.scorer.clip_spec)
        (clip,) = read_ahead([own], read, self._assistant.reading)
        if isinstance(clip, VideoError):
            detail = _renamed(clip.detail, own, name)
            detail = f" ({detail})" if detail else ""
            raise ValueError(f"{name} cannot be read: {REASONS[clip.reason]}{detail}")
        return clip

    def owns_upload(self, upload: Path) -> None:
        """The server's copy of an upload, which goes with the session."""
        self._uploads.add(upload)

    def drop(self, place: str) -> None:
        """Forget the medium of a place and all conversations about it."""
        self._stop()
        old = self._media.pop(place, None)
        for places in [places for places in self._bases if place in places]:
            self.forget(places)
            del self._bases[places]
        if old is not None:
            old.path.unlink(missing_ok=True)

    def media(self, places: tuple[str, ...]) -> list[Loaded]:
        """What stands at these places. Raises ValueError where one is empty."""
        empty = [place for place in places if place not in self._media]
        if empty:
            which = f"the {' and the '.join(empty)} clip" if len(places) > 1 else "a video or image"
            raise ValueError(f"upload {which} first, or take an example")
        return [self._media[place] for place in places]

    # answers

    def score(self, place: str, mode: str) -> Iterator[Said]:
        """The quality of a medium by one mode of the scorer: what is written of mode "reason" as it
        comes, and the row at the end."""
        base = self._base((place,))

        def written() -> Iterator[Said]:
            text = ""
            if mode == "reason":
                for piece in base.score_stream():
                    text += piece
                    yield Said(text=text)
                yield Said(text=text, row=base.last)
            else:
                row = base.score(mode)
                yield Said(text=row.completion or "", row=row)

        return self._begin(written())

    def ask(
        self,
        places: tuple[str, ...],
        question: str,
        *,
        system: str | None = None,
        temperature: float = 0.0,
    ) -> Iterator[Said]:
        """The answer to a question, or to a follow-up, piece by piece. With another system prompt
        or temperature than before the conversation begins anew. Raises ValueError for what cannot
        be asked, before anything is written."""
        return self._written(
            self._talk(places, (system or "").strip() or None, temperature), question
        )

    def _written(self, talk: Conversation, question: str) -> Iterator[Said]:
        """The answer of a conversation to its next question."""
        with self._assistant.lock:
            self._stop_locked()
            pieces = talk.stream(question)

        def written() -> Iterator[Said]:
            text = ""
            for piece in pieces:
                text += piece
                yield Said(text=text)
            yield Said(text=text, row=talk.last)

        return self._begin(written())

    def locate(self, place: str, seconds: float | None) -> Located:
        """What impairs a picture, or a frame of a video, and where.

        seconds: of the video; None is its start. Raises ValueError where no frame is shown then.
        """
        (loaded,) = self.media((place,))
        self._stop()
        at = _at(loaded.path, seconds)
        found = self._assistant.scorer.locate(loaded.path, grounding(), at=at)
        (one,) = self._assistant.steps(found)
        if one.picture_HWC is None:
            raise ValueError(_renamed(str(one.prediction.error), loaded.path, loaded.name))
        return replace(one, prediction=replace(one.prediction, path=Path(loaded.name)))

    def describe(
        self, place: str, seconds: float | None, distortion: str | None = None
    ) -> Iterator[Said]:
        """A description of a picture, or of a frame of a video, piece by piece: in four steps, or
        of one kind of distortion. Raises ValueError as `locate`."""
        (loaded,) = self.media((place,))
        wish = description(distortion=distortion)
        scorer = self._assistant.scorer
        at = _at(loaded.path, seconds)
        ((_, still),) = stills(loaded.path, scorer.clip_spec, at=at)
        if isinstance(still, VideoError):
            raise ValueError(_renamed(str(still), loaded.path, loaded.name))
        talk = scorer.conversation([still.clip], system=wish.system)
        return self._written(talk, wish.question)

    def turns(self, places: tuple[str, ...]) -> tuple[Turn, ...]:
        """What was said in a conversation so far."""
        talk = self._talks.get(places)
        return () if talk is None else talk.turns

    def forget(self, places: tuple[str, ...]) -> None:
        """Begin a conversation anew; its media stay."""
        self._stop()
        self._talks.pop(places, None)
        self._settings.pop(places, None)

    def timeline(self, place: str, seconds: float | None, mode: str = "level") -> Iterator[Moment]:
        """A row for every window of a video, as they come; their path is the user's name for it.
        Raises ValueError for a picture and for windows that are too many or none."""
        (loaded,) = self.media((place,))
        wanted = medium(loaded.path)
        if wanted.kind == "image":
            raise ValueError(f"{loaded.name} is an image; a timeline is of a video")
        if seconds is None:
            raise ValueError("say how many seconds a window has")
        length = loaded.clip.num_frames / loaded.clip.fps if loaded.clip.fps else 0.0
        if seconds > 0 and length / seconds > MAX_WINDOWS:
            raise ValueError(
                f"windows of {seconds:g} s cut {length:.0f} s into more than {MAX_WINDOWS}; take "
                f"at least {length / MAX_WINDOWS:.1f} s, or use thinker score --timeline"
            )
        scorer = self._assistant.scorer
        reading = self._assistant.reading

        def named() -> Iterator[Moment]:
            for moment in scorer.timeline(
                wanted, window_seconds=seconds, mode=mode, reading=reading
            ):
                yield replace(moment, prediction=replace(moment.prediction, path=Path(loaded.name)))

        return self._assistant.steps(named())

    def _base(self, places: tuple[str, ...]) -> Conversation:
        """The greedy conversation without turns that scores, and whose features others share."""
        media = self.media(places)
        if places not in self._bases:
            self._bases[places] = self._assistant.scorer.conversation([m.clip for m in media])
        return self._bases[places]

    def _talk(
        self, places: tuple[str, ...], system: str | None, temperature: float
    ) -> Conversation:
        base = self._base(places)
        if places not in self._talks or self._settings[places] != (system, temperature):
            self._talks[places] = base.anew(system=system, temperature=temperature)
            self._settings[places] = (system, temperature)
        return self._talks[places]

    def _begin(self, steps: Iterator[Said]) -> Iterator[Said]:
        """A conversation is not for two at once: what was being written stops."""
        with self._assistant.lock:
            self._stop_locked()
            self._writing = steps
        return self._assistant.steps(steps)

    def _stop(self) -> None:
        with self._assistant.lock:
            self._stop_locked()

    def _stop_locked(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.close()  # type: ignore[attr-defined]  # a generator

    def close(self) -> None:
        """Delete its files and forget everything."""
        self._closed = True
        self._stop()
        self._media.clear()
        self._bases.clear()
        self._talks.clear()
        for upload in self._uploads:
            with contextlib.suppress(OSError):
                upload.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _renamed(text: str, own: Path, name: str) -> str:
    """An error in words of the user: FFmpeg names the file, too, and where it lies here is no
    user's business."""
    return text.replace(f"file:{own}", name).replace(str(own), name)


def _at(path: Path, seconds: float | None) -> list[float] | None:
    """The time of a frame; None of a picture."""
    return None if medium(path).kind == "image" else [seconds or 0.0]
