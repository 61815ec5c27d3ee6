"""The run: a folder of pristine videos → clips, labels, manifest.

Scan (once a source) → plan → windows in worker processes → a row a window in `rows.jsonl` (
utils/journal.py: a kill costs the windows that are being made) → files of what all rows hold. The
same command continues; another configuration, source or encoder is refused.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import av

from thinker.data.reference_labels.codec import require_encoders
from thinker.data.reference_labels.measure import find_measure
from thinker.data.reference_labels.plan import Source, Window, name_sources, plan_windows
from thinker.data.reference_labels.scan import SCAN_VERSION, Scan, scan_sources
from thinker.data.reference_labels.settings import ReferenceLabelSettings
from thinker.data.reference_labels.sheet import contact_sheet
from thinker.data.reference_labels.window import Entry, Maker, are_whole
from thinker.data.reference_labels.write import write_files
from thinker.utils.journal import RowJournal, claimed_folder
from thinker.utils.lock import folder_lock
from thinker.utils.progress import Progress
from thinker.utils.worker_pool import Failure, Limits, map_in_workers
from thinker.video import VideoError
from thinker.video.find import VIDEO_SUFFIXES, find_videos

logger = logging.getLogger(__name__)

MAKER_VERSION = 4
"""Part of the run's configuration: raise it with any change of pictures, files or labels."""
WINDOW_LIMITS = Limits(seconds=3600.0, memory_bytes=8 * 2**30)
"""A window of 4K takes the slower encoders minutes a condition, and every version of it is in
memory while they are compared."""


def make_labels(
    sources: Path, output: Path, settings: ReferenceLabelSettings, *, num_workers: int
) -> dict[str, Any]:
    """Make the clips and their labels, or go on with them; returns the manifest.

    Raises ValueError for what cannot be done, before anything slow: no ffmpeg with libvmaf, an
    encoder that is missing, a source that cannot be read, an output folder of another run.
    """
    if num_workers < 1:
        raise ValueError(f"num_workers is {num_workers}, expected at least 1")
    require_encoders({one.encoder or "libx264" for one in settings.conditions})
    measure, version = find_measure(settings.label)
    named = _find_sources(sources)
    fingerprint = _fingerprint(named, settings, version)
    clips, journal_path = output / "clips", output / "rows.jsonl"
    with (
        folder_lock(output),
        claimed_folder(output, fingerprint, lambda: journal_path.is_file()),
    ):
        scans = _scan(named, output / "scans", num_workers)
        windows = plan_windows(named, scans, settings)
        journal = RowJournal(journal_path)
        maker = Maker(settings=settings, clips=clips, measure=measure, version=version)
        failed = _run(maker, windows, journal, num_workers)
        entries = _entries(journal, len(windows))
        if not entries:
            raise ValueError("no window could be made:\n" + "\n".join(failed))
        manifest = write_files(output, entries, settings, fingerprint, failed)
        contact_sheet(output / "contact_sheet.png", clips, entries, settings)
    return manifest


def _find_sources(folder: Path) -> list[Source]:
    if not folder.is_dir():
        raise ValueError(f"sources {folder}: expected a folder of videos")
    paths = [p for p in find_videos([folder]) if p.suffix.lower() in VIDEO_SUFFIXES]
    if not paths:
        raise ValueError(f"sources {folder}: no video in it")
    return name_sources(paths, folder, [_sha256(path) for path in paths])


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fingerprint(
    sources: Sequence[Source], settings: ReferenceLabelSettings, version: str
) -> dict[str, Any]:
    """What has to be the same for rows to belong together."""
    return {
        "maker_version": MAKER_VERSION,
        "scan_version": SCAN_VERSION,
        "label_version": version,
        "av": av.__version__,
        "sources": {source.name: source.sha256 for source in sources},
        "settings": json.loads(json.dumps(asdict(settings))),
    }


def _scan(sources: Sequence[Source], folder: Path, num_workers: int) -> list[Scan]:
    kept = [folder / f"{source.sha256[:32]}.npz" for source in sources]
    scans = scan_sources([source.path for source in sources], kept, num_workers=num_workers)
    bad = [str(scan) for scan in scans if isinstance(scan, VideoError)]
    if bad:
        raise ValueError(
            f"{len(bad)} source(s) cannot be read; take them out of the folder:\n" + "\n".join(bad)
        )
    return [scan for scan in scans if isinstance(scan, Scan)]


def _run(
    maker: Maker, windows: Sequence[Window], journal: RowJournal, num_workers: int
) -> list[str]:
    """Make what is not whole yet; returns what went wrong, a line a window."""
    missing = [
        place
        for place in range(len(windows))
        if place not in journal.rows or not are_whole(journal.rows[place]["clips"], maker.clips)
    ]
    if len(missing) < len(windows):
        logger.info("%d of %d windows are made already", len(windows) - len(missing), len(windows))
    failed = []
    answers = map_in_workers(
        maker,
        (windows[place] for place in missing),
        num_workers=min(num_workers, max(len(missing), 1)),
        limits=WINDOW_LIMITS,
    )
    with Progress(len(missing), unit="window", name="labels") as progress:
        for place, answer in zip(missing, answers, strict=True):
            row = {"error": answer.detail} if isinstance(answer, Failure) else json.loads(answer)
            if "clips" in row:
                journal.replace([(place, row)])
            else:
                window = windows[place]
                failed.append(f"{window.content} from frame {window.start} on: {row['error']}")
                logger.warning("%s", failed[-1])
            progress.update()
    return failed


def _entries(journal: RowJournal, num_windows: int) -> list[Entry]:
    return [
        entry
        for place in range(num_windows)
        for entry in journal.rows.get(place, {"clips": ()})["clips"]
    ]
