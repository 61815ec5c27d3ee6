"""The page of the app: four tabs over the sessions of `session.py`, in Gradio.

In: an `Assistant` and examples. Out: the `Blocks`. Handlers get the user by the page's session hash
and yield what changes, component by component. Whatever goes wrong in one is a line of text in its
tab; what nothing here knows is in the log with its traceback.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from rewards.parts import parse_parts
from thinker.app import shown
from thinker.app.examples import LOCAL, LONG, PAIR, SINGLE, Examples
from thinker.app.session import Assistant, Loaded, Session
from thinker.data.builders.wording import WORDINGS
from thinker.score.timeline import Moment, plot_timeline
from thinker.video import medium

logger = logging.getLogger(__name__)

Update = dict[Any, Any]
Handler = Callable[..., Iterator[Update]]

PAIR_QUESTION = WORDINGS["comparison"][0].format(medium="video")
SUGGESTIONS = tuple(WORDINGS[kind][0].format(medium="video") for kind in ("severity", "level"))
MODES = {"level words": "level", "reasoning": "reason", "several draws": "sample"}
"""What the boxes of a score are called, and the modes of the scorer that they stand for."""
REDRAW_SECONDS = 1.0
"""A timeline is drawn this often while it grows."""
CSS = Path(__file__).with_name("page.css")


@dataclass(frozen=True, kw_only=True)
class Chat:
    """The components of a conversation."""

    places: tuple[str, ...]
    """The places of a session that it is about."""
    log: gr.Chatbot
    """What was said."""
    question: gr.Textbox
    """What is asked next."""
    note: gr.HTML
    """Where errors of the tab are told."""


class Page:
    """Builds the page once; `blocks` is served."""

    def __init__(self, assistant: Assistant, examples: Examples):
        self._assistant, self._examples = assistant, examples
        self._words = assistant.scorer.policy.inputs.levels.words
        self._buttons: dict[str, list[tuple[str, gr.Button]]] = {}
        with gr.Blocks(
            title="Thinker", analytics_enabled=False, fill_width=False, delete_cache=(600, 3600)
        ) as self.blocks:
            self._head()
            with gr.Accordion("Advanced", open=False, render=False) as advanced:
                self._advanced()
            with gr.Tab("Assess", elem_id="tab-assess"):
                self._assess()
            with gr.Tab("Compare", elem_id="tab-compare"):
                self._compare()
            with gr.Tab("Timeline", elem_id="tab-timeline"):
                self._timeline()
            with gr.Tab("Locate", elem_id="tab-locate"):
                self._locate()
            advanced.render()
            self.blocks.unload(self._leave)

    def _head(self) -> None:
        name = "/".join(Path(self._assistant.scorer.model_name or "a policy").parts[-2:])
        gr.HTML(
            "<h1>Thinker</h1><p>How good is it, what is wrong with it, and why? "
            f"The policy is <b>{shown.escape(name)}</b>.</p>",
            elem_classes="thinker-head",
        )

    def _advanced(self) -> None:
        self._system = gr.Textbox(
            label="System prompt",
            info="Said to the policy before everything else. A change begins conversations anew.",
            lines=2,
            elem_id="system",
        )
        self._temperature = gr.Slider(
            0.0, 1.5, value=0.0, step=0.1, label="Temperature",
            info="Of answers to questions. 0 takes the likeliest words; scores are not concerned.",
        )  # fmt: skip

    # tabs

    def _assess(self) -> None:
        with gr.Row():
            with gr.Column(scale=4):
                upload, player = self._upload("assess", "Video or image", SINGLE)
                seen = self._slot("seen-assess")
            with gr.Column(scale=5):
                modes = gr.CheckboxGroup(
                    list(MODES), value=["level words", "reasoning"], label="Score by",
                    elem_id="modes",
                )  # fmt: skip
                button = gr.Button("Score", variant="primary", elem_id="score")
                note = self._slot("note-assess")
                cards = self._slot("cards")
                chat = self._chat(("assess",), note, SUGGESTIONS)
        buttons = self._buttons.pop("assess")
        fresh: Update = {cards: "", chat.log: []}
        self._wire_upload(upload, "assess", player, seen, note, fresh)
        for name, each in buttons:
            self._wire_example(
                each, {"assess": name}, {"assess": (upload, player, seen)}, note, fresh
            )

        def score(session: Session, chosen: list[str]) -> Iterator[Update]:
            yield from self._score(session, chosen, cards, note)

        self._on(button.click, score, [modes], [cards, note], note)

    def _compare(self) -> None:
        parts = {}
        with gr.Row():
            for place, label in (("first", "First clip"), ("second", "Second clip")):
                with gr.Column():
                    upload, player = self._upload(place, label)
                    parts[place] = (upload, player, self._slot(f"seen-{place}"))
        with gr.Row():
            both = self._example_button("Two examples: a sharp video, and the same blurred")
            button = gr.Button("Score each by level words", size="sm", elem_id="score-each")
        note = self._slot("note-compare")
        with gr.Row():
            cards = {place: self._slot(f"card-{place}") for place in parts}
        chat = self._chat(("first", "second"), note, (PAIR_QUESTION,), label="Which one is better?")
        fresh: Update = {chat.log: []} | dict.fromkeys(cards.values(), "")
        for place, (upload, player, seen) in parts.items():
            self._wire_upload(upload, place, player, seen, note, fresh)
        self._wire_example(both, dict(zip(parts, PAIR, strict=True)), parts, note, fresh)

        def score(session: Session) -> Iterator[Update]:
            session.media(tuple(parts))
            for place, card in cards.items():
                for said in session.score(place, "level"):
                    if said.row is not None:
                        yield {card: shown.score_card(said.row, self._words), note: ""}

        self._on(button.click, score, [], [*cards.values(), note], note)

    def _timeline(self) -> None:
        with gr.Row():
            with gr.Column(scale=4):
                upload, player = self._upload("long", "A longer video", LONG)
                seen = self._slot("seen-long")
            with gr.Column(scale=7):
                seconds = gr.Number(
                    2.0, label="Seconds of a window", minimum=0.1, elem_id="seconds",
                    info="Every window is scored by level words, as if it were the whole video.",
                )  # fmt: skip
                with gr.Row():
                    button = gr.Button("Draw the timeline", variant="primary", elem_id="draw")
                    stop = gr.Button("Stop")
                note = self._slot("note-timeline")
                drawing = self._slot("plot")
        ((_, example),) = self._buttons.pop("long")
        fresh: Update = {drawing: ""}
        self._wire_upload(upload, "long", player, seen, note, fresh)
        where = {"long": (upload, player, seen)}
        self._wire_example(example, {"long": LONG[0]}, where, note, fresh)

        def draw(session: Session, window: float) -> Iterator[Update]:
            yield {note: shown.hint("Reading …"), drawing: ""}
            rows: list[Moment] = []
            drawn = time.monotonic()
            for moment in session.timeline("long", window):
                rows.append(moment)
                if time.monotonic() - drawn > REDRAW_SECONDS:
                    drawn = time.monotonic()
                    yield {drawing: self._plot(session, rows), note: _summary(rows, window)}
            yield {drawing: self._plot(session, rows), note: _summary(rows, window)}

        event = self._on(button.click, draw, [seconds], [drawing, note], note)
        stop.click(None, cancels=[event])

    def _locate(self) -> None:
        with gr.Row():
            with gr.Column(scale=4):
                upload, player = self._upload("locate", "Image or video", LOCAL)
                seconds = gr.Slider(
                    0.0, 1.0, value=0.0, step=0.01, visible=False, elem_id="at",
                    label="Seconds of the video: the frame that is looked at",
                )  # fmt: skip
                seen = self._slot("seen-locate")
            with gr.Column(scale=6):
                with gr.Row():
                    find = gr.Button("Find distortions", variant="primary", elem_id="locate")
                    tell = gr.Button("Describe", elem_id="describe")
                    stop = gr.Button("Stop", min_width=60)
                note = self._slot("note-locate")
                drawing = self._slot("located")
                kinds = gr.Radio(
                    [], label="What of it?", visible=False, elem_id="kinds",
                    info="The policy says where and how one kind of distortion shows.",
                )  # fmt: skip
                text = self._slot("description")
        ((_, example),) = self._buttons.pop("locate")
        empty = gr.update(choices=[], value=None, visible=False)
        hidden = gr.update(value=0.0, visible=False)
        fresh: Update = {drawing: "", text: "", kinds: empty}

        def at_most(loaded: Loaded) -> Update:
            return {seconds: _slider(loaded)}

        self._wire_upload(upload, "locate", player, seen, note, fresh | {seconds: hidden}, at_most)
        where = {"locate": (upload, player, seen)}
        self._wire_example(example, {"locate": LOCAL[0]}, where, note, fresh | {seconds: hidden})

        def look(session: Session, at: float) -> Iterator[Update]:
            yield fresh | {note: shown.hint("Looking …")}
            one = session.locate("locate", at)
            names = list(dict.fromkeys(box.name for box in one.prediction.boxes if box.name))
            choices = gr.update(choices=names, value=None, visible=bool(names))
            yield {drawing: shown.located(one), kinds: choices, note: ""}

        def describe(session: Session, at: float, kind: str | None = None) -> Iterator[Update]:
            title = "In four steps" if kind is None else kind
            yield {text: "", note: shown.hint("Reading …")}
            said = None
            for said in session.describe("locate", at, kind):
                yield {text: shown.description(title, said.text), note: ""}
            if said is None or said.row is None:
                yield {note: shown.hint("This answer was stopped.")}
            elif said.row.error is not None:
                yield {note: shown.problem(shown.why_not(said.row))}
            elif kind is None:
                lacks = parse_parts(said.text).missing
                yield {text: shown.description(title, said.text, lacks)}

        events = [
            self._on(find.click, look, [seconds], [drawing, kinds, text, note], note),
            self._on(tell.click, describe, [seconds], [text, note], note),
            self._on(kinds.input, describe, [seconds, kinds], [text, note], note),
        ]
        stop.click(None, cancels=events)

    # parts of a tab

    def _upload(
        self, place: str, label: str, examples: tuple[str, ...] = ()
    ) -> tuple[gr.File, gr.HTML]:
        limit = self._assistant.limits.max_upload_mb
        upload = gr.File(
            label=f"{label}, at most {limit} MB", elem_id=f"upload-{place}", height=160
        )
        if examples:
            gr.HTML(shown.hint("Or begin with an example:"))
            with gr.Row():
                self._buttons[place] = [(name, self._example_button(name)) for name in examples]
        return upload, self._slot(f"player-{place}")

    def _slot(self, name: str) -> gr.HTML:
        """A place for HTML, which takes no room while it is empty."""
        return gr.HTML(elem_id=name, elem_classes="thinker-slot")

    def _example_button(self, name: str) -> gr.Button:
        return gr.Button(name, size="sm", min_width=130, elem_classes="thinker-example")

    def _chat(
        self,
        places: tuple[str, ...],
        note: gr.HTML,
        suggestions: tuple[str, ...],
        label: str = "Questions",
    ) -> Chat:
        """A conversation with its buttons, wired."""
        key = places[0]
        log = gr.Chatbot(
            label=label, height=300, render_markdown=False, buttons=["copy"], elem_id=f"chat-{key}",
            feedback_options=None, placeholder="Ask anything about it; then ask on.",
        )  # fmt: skip
        with gr.Row(equal_height=True):
            question = gr.Textbox(
                value=suggestions[0] if len(places) > 1 else "", show_label=False, scale=6, lines=1,
                max_lines=6,
                placeholder="Ask about what you see", elem_id=f"question-{key}", container=False,
            )  # fmt: skip
            ask = gr.Button("Ask", variant="primary", scale=1, min_width=80, elem_id=f"ask-{key}")
        with gr.Row():
            chips = [self._example_button(text) for text in suggestions if len(places) == 1]
        with gr.Row():
            stop = gr.Button("Stop", size="sm", min_width=60)
            anew = gr.Button("New conversation", size="sm", min_width=60)
        chat = Chat(places=places, log=log, question=question, note=note)
        outputs = [log, question, note]
        inputs = [question, self._system, self._temperature]
        events = [
            self._on(trigger, self._asking(chat), inputs, outputs, note)
            for trigger in (ask.click, question.submit)
        ]
        for chip in chips:
            fill = chip.click(
                lambda text=chip.value: text, None, question, api_visibility="private"
            )
            events.append(self._on(fill.then, self._asking(chat), inputs, outputs, note))
        stop.click(None, cancels=events)

        def begin(session: Session) -> Iterator[Update]:
            session.forget(places)
            yield {log: [], note: ""}

        for trigger in (anew.click, log.clear):
            self._on(trigger, begin, [], [log, note], note)
        return chat

    def _asking(self, chat: Chat) -> Handler:
        def asking(
            session: Session, question: str, system: str, temperature: float
        ) -> Iterator[Update]:
            answers = session.ask(chat.places, question, system=system, temperature=temperature)
            before = session.turns(chat.places)
            log = shown.messages(before, question, "")
            yield {chat.log: log, chat.question: "", chat.note: ""}
            said = None
            for said in answers:
                yield {chat.log: shown.messages(before, question, said.text)}
            if said is None or said.row is None:
                yield {chat.note: shown.hint("This answer was stopped.")}
            elif said.row.error is not None:
                yield {chat.note: shown.problem(shown.why_not(said.row))}

        return asking

    def _score(
        self, session: Session, chosen: list[str], cards: gr.HTML, note: gr.HTML
    ) -> Iterator[Update]:
        if not chosen:
            raise ValueError("choose at least one way to score")
        done: list[str] = []
        yield {cards: "", note: shown.hint("Scoring …")}
        for mode in [MODES[name] for name in MODES if name in chosen]:
            for said in session.score("assess", mode):
                if said.row is None:
                    yield {cards: shown.cards([*done, shown.written(said.text)])}
                else:
                    done.append(shown.score_card(said.row, self._words))
                    yield {cards: shown.cards(done)}
        yield {note: ""}

    def _plot(self, session: Session, rows: list[Moment]) -> str:
        if not rows:
            return ""
        target = session.folder / "timeline.png"
        with self._assistant.lock:  # pyplot is for one thread
            plot_timeline(rows, target)
        picture = shown.plot(target)
        target.unlink()
        return picture

    # events

    def _on(
        self,
        trigger: Callable[..., Any],
        handler: Handler,
        inputs: list[Any],
        outputs: list[Any],
        note: gr.HTML,
        **settings: Any,
    ) -> Any:
        """Run a handler with the session of whoever caused an event; its errors become text."""

        def run(request: gr.Request, *values: Any) -> Iterator[Update]:
            try:
                yield from handler(self._assistant.session(str(request.session_hash)), *values)
            except ValueError as error:
                yield {note: shown.problem(str(error))}
            except Exception as error:
                logger.exception("the app met an error that it does not know")
                kind = type(error).__name__
                yield {note: shown.problem(f"unexpected: {kind}; the log has its traceback")}

        return trigger(
            run, inputs, outputs, show_progress="hidden", api_visibility="private", **settings
        )

    def _wire_upload(
        self, upload: gr.File, place: str, player: gr.HTML, seen: gr.HTML, note: gr.HTML,
        fresh: Update, more: Callable[[Loaded], Update] | None = None,
    ) -> None:  # fmt: skip
        """more: what else changes once a file is read, of the components in `fresh`."""

        def take(session: Session, file: dict[str, Any] | None) -> Iterator[Update]:
            if file is None:
                return
            name = file.get("orig_name") or Path(file["path"]).name
            session.owns_upload(Path(file["path"]))
            yield fresh | {player: "", seen: "", note: shown.hint(f"Reading {name} …")}
            try:
                loaded = session.take(place, Path(file["path"]), name)
            except ValueError as error:
                yield {upload: None, note: shown.problem(str(error))}
                return
            others = {} if more is None else more(loaded)
            yield self._loaded(loaded, player, seen) | {note: ""} | others

        def clear(session: Session) -> Iterator[Update]:
            session.drop(place)
            yield fresh | {player: "", seen: "", note: ""}

        outputs = [upload, player, seen, note, *fresh]
        # As it comes: preprocessing would leave an empty file behind at every upload.
        self._on(upload.upload, take, [upload], outputs, note, preprocess=False)
        self._on(upload.clear, clear, [], outputs, note)

    def _wire_example(
        self,
        button: gr.Button,
        names: dict[str, str],
        where: dict[str, tuple[gr.File, gr.HTML, gr.HTML]],
        note: gr.HTML,
        fresh: Update,
    ) -> None:
        def take(session: Session) -> Iterator[Update]:
            yield fresh | {note: shown.hint("Drawing …")}
            update: Update = {note: ""}
            for place, name in names.items():
                upload, player, seen = where[place]
                path = self._examples.path(name)
                loaded = session.take(place, path, f"{name}{path.suffix}")
                update |= self._loaded(loaded, player, seen) | {upload: None}
            yield update

        outputs = [part for parts in where.values() for part in parts]
        self._on(button.click, take, [], [*outputs, note, *fresh], note)

    def _loaded(self, loaded: Loaded, player: gr.HTML, seen: gr.HTML) -> Update:
        is_image = medium(loaded.path).kind == "image"
        as_tiles = is_image and self._assistant.scorer.clip_spec.stills == "image"
        return {
            player: shown.player(f"gradio_api/file={loaded.path}", is_image=is_image),
            seen: shown.frames(loaded.name, loaded.frames, is_image=as_tiles),
        }

    def _leave(self, request: gr.Request) -> None:
        self._assistant.end(str(request.session_hash))


def _slider(loaded: Loaded) -> Update:
    """The times of a video; not shown of a picture."""
    clip = loaded.clip
    if medium(loaded.path).kind == "image" or not clip.fps:
        return gr.update(value=0.0, visible=False)
    last = (clip.num_frames - 1) / clip.fps
    return gr.update(maximum=max(round(last, 2), 0.01), value=0.0, visible=True)


def _summary(rows: list[Moment], window: float) -> str:
    return shown.summary([row.prediction for row in rows], window)
