"""What a prompt says of the stalls of a video: the two forms of VQA² (arXiv 2411.03795, section
3.2 and its published records), for scoring, training and evaluation alike.

In: runs of frames. Out: a text, which `thinker.prompts.place_media` puts behind the video.
"""

from collections.abc import Sequence

from thinker.prompts import STALL_FORMS

DIGITS = (
    "The temporal sequence of the stalling information of each frame is shown as follows: {digits}"
)
SENTENCES = "The stalling condition of this video is: {sentences}"
SMOOTH = "The video plays smoothly, without any stalling happens."

# The sentences of the published records. The paper names two more facts, whose wording was not
# published: the initial buffering and the length of each event. Those words are ours.
_TOTAL = (
    "The total stalling duration of this video is {total} frames, accounting for {total_share:.6f} "
    "percent of the total duration."
)
_EVENTS = "The number of stalling events of the video is {count}."
_SINCE = (
    "The time elapsed from the end of the last stalling event to the end of the video is {since} "
    "frames, accounting for {since_share:.6f} percent of the total playback duration."
)
_BUFFERING = "The initial buffering time of the video is {buffering} frames."
_LENGTHS = "The duration of each stalling event is, in frames: {lengths}."


def stall_text(runs: Sequence[tuple[int, int]], num_frames: int, form: str) -> str:
    """What is said of the stalls of a video of `num_frames` frames.

    runs: (first frame, frame behind the last one) of each stall, ascending and apart from each
    other. form: one of `thinker.prompts.STALL_FORMS`: "digits" gives one a frame, 1 = stalled;
    "sentences" the total with its share, the number of events, the time since the last one, the
    initial buffering (a stall at the first frame, which counts as an event, too), and the length of
    each event.

    Examples: `stall_text([(2, 4)], 5, "digits")` ends with `": 00110"`; of 374 frames with the one
    stall `(126, 251)`, sentences say 125 frames or 33.422460 percent in all, and 123 frames or
    32.887701 percent since.
    """
    assert form in STALL_FORMS, form
    if form == "digits":
        stalled = {number for first, stop in runs for number in range(first, stop)}
        return DIGITS.format(digits="".join("01"[n in stalled] for n in range(num_frames)))
    if not runs:
        return SENTENCES.format(sentences=SMOOTH)
    lengths = [stop - first for first, stop in runs]
    total, since = sum(lengths), num_frames - runs[-1][1]
    sentences = " ".join((_TOTAL, _EVENTS, _SINCE, _BUFFERING, _LENGTHS)).format(
        total=total,
        total_share=100 * total / num_frames,
        count=len(lengths),
        since=since,
        since_share=100 * since / num_frames,
        buffering=lengths[0] if runs[0][0] == 0 else 0,
        lengths=", ".join(map(str, lengths)),
    )
    return SENTENCES.format(sentences=sentences)
