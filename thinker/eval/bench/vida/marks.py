"""The marks of boxes and references in questions and answers.

The published extraction reads answers with Qwen2-VL's marks only. A completion may have lost them:
they are special tokens of that tokenizer, which decoding leaves out, and other policies write other
forms. `published_form` puts what our parser reads of such an answer into the published form, so
that the published metrics judge what was said and not the tokenizer. An answer with these marks is
never touched.
"""

import re
from collections.abc import Sequence

from rewards.answer import Answer, Located, locate_free
from rewards.boxes import BOX_SEVERITIES, PICTURE_DISTORTIONS, LabelledBox, parse_boxes

_MARKS = ("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>")
_OTHER_MARKS = re.compile(r"</?(?:ref|box)>")
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_SEVERITIES = "|".join((*BOX_SEVERITIES, "slight"))
_NAMES = "|".join((*PICTURE_DISTORTIONS, "blocking artifact"))
_CORNERS = r"[(\[]{1,2}\s?(\d{1,4}),\s?(\d{1,4})\)?,?\s?\(?(\d{1,4}),\s?(\d{1,4})[)\]]{1,2}"
_MENTION = re.compile(rf"\b((?:{_SEVERITIES}) (?:{_NAMES}))\s{{0,3}}{_CORNERS}", re.IGNORECASE)


def without_marks(text: str) -> str:
    """A question as policies without these tokens are taught it.

    >>> without_marks("region <|box_start|>(1,2),(3,4)<|box_end|>?")
    'region (1,2),(3,4)?'
    """
    for mark in _MARKS:
        text = text.replace(mark, "")
    return text


def said(completion: str) -> str:
    """What a completion answers: all of it, white space too, as long as it has no tags of reasoning
    or answer; the published model writes none.

    >>> said("A.\\n"), said("<think>Sharp.</think><answer>A</answer>")
    ('A.\\n', 'A')
    """
    completion = completion.removesuffix("<|im_end|>")
    if not any(tag in completion for tag in _TAGS):
        return completion
    located = locate_free(completion)
    return located.text if isinstance(located, Located) else completion


def published_form(text: str, task: str) -> str:
    """An answer about places in the published form.

    text: what is `said`. Of task "boxes" an answer without marks becomes a line a class, with all
    its boxes, as the published extraction loses what stands on a second one. Of task "describe" the
    references, "severe noise (10,20),(30,40)" in any form of brackets, are marked where they stand,
    and all else stays as it is.

    >>> published_form("Noise: severe noise (1,2),(3,4)", "boxes")
    'Noise: <|object_ref_start|>Severe noise<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>.'
    """
    if any(mark in text for mark in _MARKS):
        return text
    if task == "describe":
        return _MENTION.sub(_marked_mention, _OTHER_MARKS.sub("", text))
    answer = parse_boxes(text)
    found = answer.value.boxes if isinstance(answer, Answer) else ()
    return grounding_text(found) if found else text


def grounding_text(boxes: Sequence[LabelledBox]) -> str:
    """Boxes in the published form, a line a class, in the order in which classes are named."""
    lines = []
    for name in dict.fromkeys(one.name for one in boxes):
        own = [_marked(one) for one in boxes if one.name == name]
        lines.append(f"{str(name).capitalize()}: {''.join(own)}")
    return "\n".join(lines) + "."


def _marked(one: LabelledBox) -> str:
    label = f"{one.severity or ''} {one.name}".strip().capitalize()
    return _mark(label, (round(side) for side in one.box))


def _marked_mention(match: re.Match[str]) -> str:
    return _mark(match[1], map(int, match.groups()[1:]))


def _mark(label: str, corners) -> str:
    left, top, right, bottom = corners
    return (
        f"<|object_ref_start|>{label}<|object_ref_end|>"
        f"<|box_start|>({left},{top}),({right},{bottom})<|box_end|>"
    )
