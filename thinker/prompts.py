"""Every prompt text, in one place: training, inference and evaluation read the same words.

The question and the output instruction are those of VQAThinker (arXiv 2508.06051, training
release); its inference release differs in white space and in the frame sampler, a train/test
mismatch that one source rules out. A policy carries its layout, so that the released weights can be
asked exactly as they were evaluated. The recognition question is that of VQA² (arXiv 2411.03795),
stage 1. What other tasks ask stands in `thinker/tasks/`.

A prompt is a conversation (`Turn`) with any number of media in it. The policy's inputs turn each
medium into the text that stands for it (`MediaText`), `place_media` puts it where it belongs.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

QUESTION = (
    "You are doing the video quality assessment task. Here is the question: "
    "What is your overall rating on the quality of this video? "
    "The rating should be a float between 1 and 5, rounded to two decimal places, "
    "with 1 representing very poor quality and 5 representing excellent quality."
)
OUTPUT_FORMAT = (
    "First output the thinking process in <think> </think> tags "
    "and then output the final answer in <answer> </answer> tags."
)
SCORING = f"{QUESTION} {OUTPUT_FORMAT}"

SHORT_SCORING = "Rate the quality of this video from 1 to 5."
"""For the tiny policies: with SCORING, two thirds of their prompt would be the question."""

RECOGNITION = "What is the main distortion presented in this video?"

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One turn of a conversation."""

    role: str
    """One of `ROLES`."""
    text: str
    """What is said. `<image>` and `<video>` in a user turn mark where a medium stands, in order;
    either word will do for either kind."""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"role is {self.role!r}, expected one of {', '.join(ROLES)}")


IMAGE, VIDEO = "image", "video"
OPENINGS = {VIDEO: "Now you will receive a video:", IMAGE: "Now you will receive an image:"}
"""What stands before the slots of a medium where it is the only one of a prompt."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The words and the white space around the slots of a medium."""

    opening: bool = True
    """Whether `OPENINGS` stands before them."""
    frame: str = "Frame{}:"
    """What stands before a slot of a video, its number in it."""
    motion: str = "Motion Feature:"
    """What stands before the motion slot of a whole video."""
    space: str = ""
    """Between those words and the slot."""
    line: str = "\n"
    """Between two slots, and behind the last one."""
    whole: str | None = None
    """The text of a whole video in place of a line a slot: `{visual}` is all its slots, `{motion}`
    its motion slot, `{keyframes}` and `{frames}` the numbers of its slots and motion frames."""
    label_motion_frames: bool = False
    """Whether VITAL's scoring programs are followed: they number as many slots as there are motion
    frames, fill the first ones with what there is, and leave the others as a plain `<image>`."""


LAYOUTS = {
    # VQAThinker's training text, and its inference text, which the released weights were evaluated
    # with.
    "lines": Layout(),
    "inline": Layout(space=" ", line=""),
    # VITAL's training text, and that of its scoring programs.
    "vital": Layout(opening=False, frame="Frame-{}:", space=" "),
    "vital_scoring": Layout(opening=False, frame="Frame-{}:", space=" ", label_motion_frames=True),
    # VQA²: the scorer of its paper, its later scorer, its app, and its program for the questions of
    # Q-Bench-Video. Their words are kept to the letter.
    "vqa2": Layout(
        opening=False,
        line=" ",
        whole="The key frames of this video are:\n{visual}. And the motion feature of the video "
        "is\n{motion}.",
    ),
    "vqa2_bare": Layout(opening=False, line="", whole="{visual}{motion}"),
    "vqa2_app": Layout(
        opening=False,
        line="",
        whole="You will receive {keyframes} distinct frames that have been by uniformly sampling "
        "1 frame per second from the video, arranged in the same temporal order as they appear in "
        "the video. In addition, you will also obtain motion features extracted from all {frames} "
        "frames of the the video.\nThe video frames:{visual}\nThe video motion features:{motion}\n",
    ),
    "vqa2_q_bench": Layout(
        opening=False,
        line="",
        whole="You will receive {keyframes} distinct frames that have been uniformly sampled in "
        "each second from a video sequence, arranged in the same temporal order as they appear in "
        "the video. In addition, you will also obtain motion features extracted from all {frames} "
        "frames of the the video.  Please analyze these images and answer the questions based on "
        "your observations.\nThe video frames:{visual}\nThe video motion features:{motion}\n.",
    ),
}
"""How media stand in user turns, by name."""

STALL_FORMS = ("sentences", "digits")
"""How a prompt tells where a video stalls (`thinker.tasks.stall_text`)."""

_PLACEHOLDER = re.compile(r"<(?:image|video)>(\n?)")


def ask(text: str) -> tuple[Turn, ...]:
    """The conversation that consists of one question."""
    return (Turn(role="user", text=text),)


def check_turns(turns: Sequence[Turn], *, last: str) -> None:
    """Raises ValueError unless a system turn (or none) is followed by user and assistant in turns,
    the last of them `last`: "user" in a prompt, "assistant" where an answer is taught."""
    roles = [turn.role for turn in turns]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    expected = [("user", "assistant")[i % 2] for i in range(len(spoken))]
    if not spoken or spoken != expected or spoken[-1] != last:
        raise ValueError(
            f"the roles of the turns are {', '.join(roles) or 'none'}; expected user and assistant "
            f"in turns, the last one {last}, and before them at most one system turn"
        )


def words(turn: Turn) -> str:
    """The text of a turn without the places that it marks for media."""
    return _PLACEHOLDER.sub("", turn.text) if turn.role == "user" else turn.text


def count_placeholders(turns: Sequence[Turn]) -> int:
    """How many media the turns mark a place for."""
    return sum(len(_PLACEHOLDER.findall(turn.text)) for turn in turns if turn.role == "user")


@dataclass(frozen=True, kw_only=True)
class MediaText:
    """What stands in a prompt for one medium."""

    kind: str
    """`VIDEO` or `IMAGE`."""

    slots: tuple[str, ...]
    """Expanded placeholder text (built by the policy's inputs), one a frame or frame pair of a
    video, one of an image."""

    motion_slot: str | None = None
    """The same for the motion of a whole video, if it stands behind the frames."""

    num_motion: int = 0
    """Motion tokens in `motion_slot`."""

    said: str | None = None
    """What is said of it in words, behind all slots: its stalls. None where nothing is."""


def place_media(turns: Sequence[Turn], media: Sequence[MediaText], layout: str) -> list[Turn]:
    """The turns with the text of a medium at each placeholder, in order; where there is no
    placeholder, all media stand before the text of the first user turn.

    Several media are numbered within their kind. `layout` is one of `LAYOUTS`; a line break behind
    a placeholder belongs to the layout. Raises ValueError where there are placeholders, but not as
    many as media.

    Example: a video with slots `<a>`, `<b>`, motion slot `<m>` and the question `Why?` is
    `"Now you will receive a video:\\nFrame1:<a>\\nFrame2:<b>\\nMotion Feature:<m>\\nWhy?"`, inline
    `"Now you will receive a video:Frame1: <a>Frame2: <b>Motion Feature: <m>Why?"`; an image behind
    it is `"Now you will receive image 1:\\n<c>"`, the video then being `video 1:`.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"prompt layout is {layout!r}, expected one of {', '.join(LAYOUTS)}")
    num_places = count_placeholders(turns)
    if num_places not in (0, len(media)):
        raise ValueError(
            f"the turns hold {num_places} placeholders <image> or <video> for {len(media)} media; "
            "expected one for each of them, or none at all"
        )
    style = LAYOUTS[layout]
    numbers: Counter[str] = Counter()
    blocks = []
    for medium in media:
        numbers[medium.kind] += 1
        number = numbers[medium.kind] if len(media) > 1 else None
        blocks.append(_block(medium, number, style))
    waiting = iter(blocks)

    def fill(place: re.Match) -> str:
        return next(waiting) + (style.line if place[1] else "")

    placed = []
    for turn in turns:
        text = turn.text
        if turn.role == "user":
            if layout == "inline":
                text = text.replace(f" {OUTPUT_FORMAT}", OUTPUT_FORMAT)
            text = _PLACEHOLDER.sub(fill, text)
            if not num_places:
                text = "".join(block + style.line for block in waiting) + text
        placed.append(Turn(role=turn.role, text=text))
    return placed


def _block(medium: MediaText, number: int | None, style: Layout) -> str:
    """Opening, slots, motion slot and words of a medium, without a line break behind them."""
    pieces = [_opening(medium.kind, number)] if style.opening else []
    if medium.kind == IMAGE:
        pieces += medium.slots
    elif style.label_motion_frames:
        pieces += _labelled_motion(medium, style)
    elif style.whole is not None:
        pieces.append(
            style.whole.format(
                visual="".join(medium.slots),
                motion=medium.motion_slot or "",
                keyframes=len(medium.slots),
                frames=medium.num_motion,
            )
        )
    else:
        slots = enumerate(medium.slots, start=1)
        pieces += [f"{style.frame.format(i)}{style.space}{slot}" for i, slot in slots]
        if medium.motion_slot is not None:
            pieces.append(f"{style.motion}{style.space}{medium.motion_slot}")
    if medium.said is not None:
        pieces.append(f"{style.space}{medium.said}{style.space}")
    return style.line.join(pieces)


def _opening(kind: str, number: int | None) -> str:
    opening = OPENINGS[kind]
    if number is None:
        return opening
    article = "an" if kind == IMAGE else "a"
    return opening.replace(f"{article} {kind}:", f"{kind} {number}:")


def _labelled_motion(medium: MediaText, style: Layout) -> list[str]:
    """A line a motion frame, and one for the motion: the slots stand in the first lines.

    Example, two slots and four motion frames: `Frame-1: <a>`, `Frame-2: <b>`, `Frame-3: <m>`,
    `Frame-4: <image>`, `Motion Feature: <image>`.
    """
    labels = [style.frame.format(i + 1) for i in range(medium.num_motion)] + [style.motion]
    slots = [*medium.slots, *([] if medium.motion_slot is None else [medium.motion_slot])]
    slots += ["<image>"] * (len(labels) - len(slots))
    return [f"{label}{style.space}{slot}" for label, slot in zip(labels, slots, strict=True)]


def scoring_answer(reasoning: str, score: str) -> str:
    """The completion form the format reward asks for.

    Example: `scoring_answer("It is sharp.", "4.20")` is
    `"<think>It is sharp.</think><answer>4.20</answer>"`.
    """
    return f"<think>{reasoning}</think><answer>{score}</answer>"
