"""Free text: the parser of answers that are compared by reading them."""

from rewards.answer import Answer, InvalidAnswer, locate_free


def parse_text(completion: str) -> Answer[str] | InvalidAnswer:
    """The text in the one `<answer>` pair, else all that stands behind the reasoning.

    >>> parse_text("<think>Hm.</think> The edges are soft.").value
    'The edges are soft.'
    """
    located = locate_free(completion)
    if isinstance(located, InvalidAnswer):
        return located
    if not located.text:
        return InvalidAnswer(reason="no_answer", detail="nothing between the tags")
    return Answer(
        value=located.text,
        text=located.text,
        reasoning=located.reasoning,
        well_formed=located.well_formed,
    )
