"""A Ray actor that dies; a small module, because Ray's workers import it."""

import os

from thinker.score.archive import ScoreActor


class DiesOnce(ScoreActor):
    """Its process dies in its first chunk, as one that is out of memory would."""

    def score_chunk(self, paths, part):
        mark = self.output / "_died"
        if not mark.exists():
            mark.touch()
            os._exit(1)
        return super().score_chunk(paths, part)
