"""When a choice counts as right: the published rules, and ours, on the same answers.

The published programs compare the whole reply. Here each rule reads the answer of a completion:
what its `<answer>` tags enclose, else all behind its reasoning (`rewards.answer.locate_free`), so
a reply without tags is compared whole, as published.
"""

from collections.abc import Callable

from rewards.answer import Located, locate_free
from rewards.choice import ChoiceReference, parse_choice
from thinker.data.examples import Example, parsed_reference

Rule = Callable[[str, ChoiceReference], bool]


def robust(answer: str, reference: ChoiceReference) -> bool:
    """Our parser (`rewards.choice`): the one option that is named, by letter or text."""
    parsed = parse_choice(answer, reference)
    return getattr(parsed, "value", None) == reference.answer


def official(answer: str, reference: ChoiceReference) -> bool:
    """VQA²'s program: the first character of the stripped text is the letter. An empty answer,
    which stops that program, is wrong.

    >>> shown = ChoiceReference(options=("blur", "noise"), answer="B")
    >>> [official(text, shown) for text in ("B.", "Blur", "(B)", "")]
    [True, True, False, False]
    """
    return answer.strip()[:1] == reference.answer


def vlmevalkit(answer: str, reference: ChoiceReference) -> bool:
    """VLMEvalKit's: the text is the letter or the option, contains "letter.", or has a line that is
    the letter.

    >>> shown = ChoiceReference(options=("blur", "noise"), answer="B")
    >>> [vlmevalkit(text, shown) for text in ("B", "A. or B.", "noise", "Well,\\nB", "b")]
    [True, True, True, True, False]
    """
    letter = reference.answer or ""
    text = reference.options[reference.values.index(letter)]
    if answer in (letter, text) or f"{letter}." in answer:
        return True
    return letter in answer.split("\n")


RULES: dict[str, Rule] = {"robust": robust, "official": official, "vlmevalkit": vlmevalkit}
"""By name, in the order of the table."""


def verdicts(example: Example, completion: str) -> dict[str, bool | None]:
    """Whether each rule takes a completion for right; None where the right answer is not known."""
    reference: ChoiceReference = parsed_reference(example)
    if reference.answer is None:
        return dict.fromkeys(RULES)
    located = locate_free(completion)
    answer = located.text if isinstance(located, Located) else completion
    found: dict[str, bool | None] = {}
    for name, rule in RULES.items():
        # Ours looks for the answer itself, and counts broken tags as an invalid answer.
        found[name] = rule(completion if rule is robust else answer, reference)
    return found
