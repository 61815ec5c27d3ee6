"""Files cut out of longer recordings, and AVIs with dropped frames: numbers, times and pixels are
those that FFmpeg shows, or the file is an error."""

import dataclasses
from pathlib import Path

import av
import numpy as np
import pytest

from tests.helpers.cuts import (
    OPEN_GOP,
    cut_packets,
    hls_segments,
    key_numbers,
    plain_decode,
    write_open_gop,
)
from tests.helpers.video_checks import SPEC, assert_right_frames, frame_ids, reason_of
from tests.helpers.video_factory import read_frame_id, write_video
from thinker.video import VideoError, decode, medium, read_clip
from thinker.video.decode import VideoFile
from thinker.video.file import count_null_frames

NUM_FRAMES = 60  # keyframes in decoding order: 0, 9 or 10, 21 or 22, …; shown as 12, 24, …


def read_all(path: Path) -> tuple[list[float], list[np.ndarray]]:
    with VideoFile(path) as video:
        seconds = video.index.seconds
        pictures = dict(video.frames(list(range(len(seconds)))))
    return seconds, [pictures[number] for number in range(len(seconds))]


def assert_as_shown(path: Path, ids: list[int]) -> None:
    """Frames with these numbers, as FFmpeg's decoder shows them; the same ones asked singly."""
    shown = plain_decode(path)
    seconds, pictures = read_all(path)
    assert [read_frame_id(picture) for picture in pictures] == ids
    assert seconds == pytest.approx([at - shown[0][0] for at, _ in shown])
    for picture, (_, expected) in zip(pictures, shown, strict=True):
        assert np.array_equal(picture, expected)
    for number in (0, 1, len(ids) // 2, len(ids) - 1):
        with VideoFile(path) as video:
            assert video.index.seconds == seconds
            ((_, picture),) = video.frames([number])
        assert np.array_equal(picture, pictures[number])


@pytest.mark.parametrize("codec", OPEN_GOP)
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_cut_at_an_open_group_and_in_mid_group(tmp_path, codec, suffix):
    """The leading pictures are cut away with what they lean on; so is what is left of a group."""
    source = write_open_gop(tmp_path / f"a.{suffix}", codec, gop=12, num_frames=NUM_FRAMES)
    key = key_numbers(source)[2]
    for first, start in ((key, 24), (key + 5, 36)):
        path = cut_packets(source, tmp_path / f"cut.{suffix}", first)
        assert_as_shown(path, list(range(start, NUM_FRAMES)))


@pytest.mark.parametrize("codec", OPEN_GOP)
def test_hls_segment(tmp_path, codec):
    source = write_open_gop(tmp_path / "a.ts", codec, gop=12, num_frames=NUM_FRAMES)
    pieces = hls_segments(source, tmp_path / "hls", 0.4)
    assert_as_shown(pieces[0], list(range(0, 12 - (2 if codec == "mpeg2" else 3))))
    with VideoFile(pieces[2]) as video:
        assert video.index.cut
    assert_as_shown(pieces[2], frame_numbers(pieces[2]))
    assert frame_numbers(pieces[2])[0] == 24


def frame_numbers(path: Path) -> list[int]:
    return [read_frame_id(picture) for _, picture in plain_decode(path)]


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_hidden_by_an_edit_list(tmp_path, codec):
    """What the list hides is decoded, never shown; of the leading pictures none can be."""
    source = write_open_gop(tmp_path / "a.mp4", codec, gop=12, num_frames=NUM_FRAMES)
    key = key_numbers(source)[2]
    # Packets from the keyframe on show 21, 22, 23 (leading), 24 (the keyframe), 25, …
    for num_hidden, start in ((1, 24), (3, 24), (6, 27)):
        path = cut_packets(source, tmp_path / "cut.mp4", key, num_hidden=num_hidden)
        assert_as_shown(path, list(range(start, NUM_FRAMES)))


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_cut_where_pictures_are_refreshed_strip_by_strip(tmp_path, suffix):
    """No picture stands for itself; the decoder says from which one on all strips are fresh."""
    options = {"x264-params": "intra-refresh=1:keyint=12:bframes=0"}
    source = write_video(tmp_path / f"a.{suffix}", num_frames=NUM_FRAMES, fps=25, options=options)
    path = cut_packets(source, tmp_path / f"cut.{suffix}", 7)
    assert 12 < frame_numbers(path)[0] < 24
    assert_as_shown(path, list(range(frame_numbers(path)[0], NUM_FRAMES)))


def test_pictures_that_lean_on_missing_ones_are_an_error(tmp_path):
    """MPEG-4's decoder shows a grey mess without a word."""
    source = write_video(tmp_path / "a.mkv", codec="mpeg4", num_frames=36, options={"bf": "0"})
    path = cut_packets(source, tmp_path / "cut.mkv", 5)
    assert reason_of(path) == "decode_error"
    assert reason_of(path, start=2.0) == "decode_error"


@pytest.mark.parametrize("codec", OPEN_GOP)
def test_damage_in_a_cut_file_is_an_error(tmp_path, codec):
    """Cut files are not decoded by the strict settings, and yet no picture is patched up."""
    source = write_open_gop(tmp_path / "a.mp4", codec, gop=12, num_frames=NUM_FRAMES)
    path = cut_packets(source, tmp_path / "cut.mp4", key_numbers(source)[1])
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    damaged = packets[key_numbers(path)[2] - 6]
    content = bytearray(path.read_bytes())
    for position in range(damaged.pos + 8, damaged.pos + damaged.size):
        content[position] = 0xFF
    path.write_bytes(content)
    with VideoFile(path) as video:
        pictures = dict(video.frames(list(range(8))))
        assert [read_frame_id(pictures[number]) for number in range(8)] == list(range(12, 20))
    with pytest.raises(VideoError) as caught:
        read_all(path)
    assert caught.value.reason == "decode_error"


def test_files_that_start_afresh_are_told_by_their_packets(tmp_path, monkeypatch):
    """Nothing is decoded to find out; of a cut file, its first group once."""
    source = write_open_gop(tmp_path / "a.mkv", "h264", gop=12, num_frames=NUM_FRAMES)
    path = cut_packets(source, tmp_path / "cut.mkv", key_numbers(source)[1])
    decode_cut, num_packets = decode.find_cut.__globals__["decode_cut"], 0

    def counted(packet):
        nonlocal num_packets
        num_packets += 1
        return decode_cut(packet)

    monkeypatch.setitem(decode.find_cut.__globals__, "decode_cut", counted)
    with VideoFile(source) as video:
        assert video.index.cut is None and num_packets == 0
    with VideoFile(path) as video:
        assert video.index.cut and num_packets == 12


# --- AVI ---


def write_avi(path: Path, empty: set[int], *, codec: str, num_b_frames: int) -> Path:
    """24 frames in the slots that are not `empty`; chunks of size 0 in those."""
    write_video(path, codec=codec, num_frames=24, options={"bf": str(num_b_frames)})
    path.write_bytes(with_null_chunks(path.read_bytes(), empty))
    return path


def with_null_chunks(content: bytes, empty: set[int]) -> bytes:
    movi, index = content.index(b"movi") + 4, content.index(b"idx1")
    chunks, place = [], movi
    while place < index:
        size = int.from_bytes(content[place + 4 : place + 8], "little")
        chunks.append(content[place : place + 8 + size + size % 2])
        place += len(chunks[-1])
    flags = [content[at : at + 4] for at in range(index + 12, len(content), 16)]
    body, entries, following = b"", b"", iter(zip(chunks, flags, strict=True))
    for slot in range(len(chunks) + len(empty)):
        chunk, flag = (b"00dc" + bytes(4), bytes(4)) if slot in empty else next(following)
        entries += b"00dc" + flag + (len(body) + 4).to_bytes(4, "little") + chunk[4:8]
        body += chunk
    more = {"RIFF": (4, 24), "movi": (-4, 8), "strh": (40, 1), "avih": (24, 1)}  # a null frame adds
    header = bytearray(content[:movi])
    for name, (offset, each) in more.items():
        at = header.index(name.encode()) + offset
        size = int.from_bytes(header[at : at + 4], "little") + each * len(empty)
        header[at : at + 4] = size.to_bytes(4, "little")
    return bytes(header) + body + b"idx1" + len(entries).to_bytes(4, "little") + entries


@pytest.mark.parametrize(
    ("codec", "num_b_frames"), [("mpeg4", 0), ("mpeg4", 2), ("h264", 0), ("h264", 2)]
)
def test_null_frames(tmp_path, codec, num_b_frames):
    """At the start, in runs, at the end: no frames, but the others keep their times."""
    empty = {0, 1, 5, 6, 13, 29, 30}
    path = write_avi(tmp_path / "v.avi", empty, codec=codec, num_b_frames=num_b_frames)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 31
    assert count_null_frames(path, 0) == 7
    # A frame is shown when it comes out: one packet later for each picture that is held back; the
    # last ones come out at the end, a slot apart.
    delay = {("mpeg4", 2): 1, ("h264", 2): 2}.get((codec, num_b_frames), 0)
    slots = [slot for slot in range(31) if slot not in empty][delay:]
    slots += [slots[-1] + 1 + i for i in range(delay)]
    seconds, pictures = read_all(path)
    assert frame_ids(pictures) == list(range(24))
    assert seconds == [(slot - slots[0]) / 10 for slot in slots]
    clip = read_clip(medium(path, start=0.35, end=1.05), SPEC)
    assert_right_frames(clip)
    assert clip.num_frames == 24


def test_a_lost_frame_is_no_null_frame(tmp_path):
    """Fewer frames than the header says, and no empty chunks for them."""
    path = write_avi(tmp_path / "v.avi", {5}, codec="mpeg4", num_b_frames=0)
    content = bytearray(path.read_bytes())
    place = content.index(b"strh") + 40
    assert content[place] == 25
    content[place] = 27
    path.write_bytes(content)
    with pytest.raises(VideoError, match="27 frames, 24 come out of the decoder, 1 are empty"):
        read_clip(path, dataclasses.replace(SPEC, num_motion_frames=0))
