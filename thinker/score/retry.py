"""Second chances: rows without an answer that a later run tries again, by their status."""

import logging
from collections.abc import Collection, Mapping

from thinker.score.prediction import FAILED, OK

logger = logging.getLogger(__name__)


def parse_retry(text: str | None) -> tuple[str, ...]:
    """The statuses of an option such as `missing,timeout`; None is none of them."""
    given = () if text is None else tuple(part.strip() for part in text.split(","))
    check_retry(given)
    return given


def check_retry(retry: Collection[str]) -> None:
    """Raises ValueError that names all statuses where one of these is none."""
    unknown = [status for status in retry if status not in FAILED]
    if unknown:
        raise ValueError(
            f"retry {', '.join(map(repr, unknown))}: expected statuses of rows without an answer, "
            f"which are {', '.join(FAILED)}"
        )


def tell_failed(statuses: Mapping[str, int], retry: Collection[str]) -> None:
    """Log in one line which of the rows that are there have no answer, and what tries them again.

    statuses: how many rows have each. retry: those that this run tries again.
    """
    counts = {status: count for status, count in statuses.items() if status != OK}
    if not counts:
        return
    shown = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    again = sum(count for status, count in counts.items() if status in retry)
    left = sorted(status for status in counts if status not in retry)
    advice = f"add --retry {','.join(left)} to try {'the others' if again else 'them'} again"
    steps = [f"trying {again} again"] if again else []
    steps += [advice] if left else []
    logger.warning("rows without an answer are there: %s; %s", shown, "; ".join(steps))
