"""Whole archives, by Ray Data (`thinker score --engine ray`), on one machine or on a cluster.

The input is a table of paths, any number of rows, divided into numbered chunks (`table.py`);
folders and globs are listed into such a table first (`listing.py`). The driver (`run.py`) holds
some bytes a chunk, and no path. Ray Data hands chunk numbers to actors (`actor.py`), which read the
paths of a chunk, score them, and write its rows as one Parquet part (`parts.py`). A chunk is done
when its part exists, so a restart does the rest. What begins is counted on disk (`tries.py`): a
chunk that ends its actor again and again is divided until the file is found that does it.
"""

from thinker.score.archive.run import RaySettings, format_counts, score_archive

__all__ = ["RaySettings", "format_counts", "score_archive"]
