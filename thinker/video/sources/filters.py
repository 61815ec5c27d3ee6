"""FFmpeg's filters for frames of one kind."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import av
    import av.filter


def filter_graph(frame: av.VideoFrame, *filters: tuple[str, str]) -> av.filter.Graph:
    """A chain of filters, each a name and its settings, for frames of this one's size and format.

    Example: `filter_graph(frame, ("hflip", ""))`, then `push(frame)` and `vpull()`.
    """
    import av.filter

    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base or Fraction(1, 1000),
    )
    chain = [graph.add(name, settings) for name, settings in (*filters, ("buffersink", ""))]
    for one, following in pairwise([source, *chain]):
        one.link_to(following)
    graph.configure()
    return graph
