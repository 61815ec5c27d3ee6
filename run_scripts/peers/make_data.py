"""Small data in the form of the real sets, and the records that a tiny policy learns them by.

    python run_scripts/peers/make_data.py FOLDER

FOLDER is then a $THINKER_DATA with a part of KoNViD-1k (12 noisy videos, one of them missing and
one damaged), with Q-Bench-Video's dev split (18 questions, 6 of them about pairs, two open ones),
`lessons.jsonl`, `lessons.yaml` and `theirs.jsonl`, which is a task of somebody else's.
"""

import json
import sys
from pathlib import Path

import av
import numpy as np

NUM_VIDEOS = 12
FORM = "Answer with the option's letter from the given choices directly."
SCORING = "Rate the quality of this video from 1 to 5."
QUESTIONS = (
    ("Which distortion is the strongest?", ["Blur", "Noise", "Blocks"], "what/how", "Technical"),
    ("Is this video noisy?", ["Yes", "No"], "yes-or-no", "Technical"),
)
LESSONS_YAML = """name: lessons
train:
  - records: [lessons.jsonl]
    media_root: .
    task: open
"""


def write_video(path: Path, number: int) -> None:
    """One second of a moving gradient, the noisier the higher its number."""
    draw = np.random.default_rng(number)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=12)
        stream.width = stream.height = 64
        for moment in range(12):
            ramp = np.add.outer(np.arange(64), np.arange(64) + 4 * moment) % 128 + 64
            noise = draw.normal(0, 6 * number, (64, 64, 3))
            frame = (ramp[..., None] + noise).clip(0, 255).astype(np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        file.mux(stream.encode())


def mos(number: int) -> float:
    """On KoNViD-1k's scale, 0 to 100."""
    return 95.0 - 7 * number


def conversation(videos: list[str], question: str, answer: str) -> dict:
    places = "".join("<video>\n" for _ in videos)
    turns = [{"from": "human", "value": places + question}, {"from": "gpt", "value": answer}]
    return {"video": videos, "conversations": turns}


def question(names: list[str], number: int, which: int) -> tuple[dict, dict]:
    """A record of the benchmark, and the lesson that has its answer."""
    text, options, kind, concern = QUESTIONS[which]
    letter = "ABC"[(number + which) % len(options)]
    is_pair = len(names) == 2
    record = {
        "video_name": "_cat_".join(names) + (".mp4" if is_pair else ""),
        "question": text,
        "answers": options,
        "question_type": kind,
        "quality_concern": concern,
        "context": "Compare-Fine" if is_pair else "Global",
        "video_type": "natural",
        "correct_choice": letter,
    }
    lines = [f"{letter}. {option}" for letter, option in zip("ABC", options, strict=False)]
    shown = [f"videos/q_bench_video/{name}" for name in names]
    return record, conversation(shown, "\n".join([text, *lines, FORM]), letter)


def main(folder: Path) -> None:
    for name in ("meta", "videos/konvid_1k", "videos/q_bench_video"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    names = [f"{number}.mp4" for number in range(NUM_VIDEOS)]
    lessons, records, theirs = [], [], []
    for number, name in enumerate(names):
        for place in ("konvid_1k", "q_bench_video"):
            write_video(folder / "videos" / place / name, number)
        score = f"<answer>{1 + mos(number) / 25:.2f}</answer>"
        lessons.append(conversation([f"videos/konvid_1k/{name}"], SCORING, score))
        shown = [name] if number % 3 else [name, names[number - 1]]
        asked = [question(shown, number, number % 2)]
        if number % 3 == 1:
            asked.append(question(shown, number, 1 - number % 2))
        for record, lesson in asked:
            records.append(record)
            lessons.append(lesson)
        path = str(folder.absolute() / "videos" / "konvid_1k" / name)
        theirs.append({"path": path, "asked": SCORING, "answer": score[8:-9]})
    for name in names[:2]:
        records.append(
            {
                "video_name": name, "question": "What disturbs?", "answers": ["Noise."],
                "question_type": "open_ended", "quality_concern": "Technical", "context": "Global",
            }
        )  # fmt: skip
    annotations = [
        {"image_id": name, "ann_type": "score", "score": f"{mos(number):.3f}"}
        for number, name in enumerate([*names[:-2], "gone.mp4", "damaged.mp4"])
    ]
    (folder / "videos" / "konvid_1k" / "damaged.mp4").write_bytes(b"no video")
    (folder / "videos" / "q_bench_video" / names[-1]).unlink()  # the last question has no video
    meta = folder / "meta"
    (meta / "Konvid-1k_total_ds_score.json").write_text(json.dumps({"annotations": annotations}))
    (meta / "Q_Bench_Video_dev.json").write_text(json.dumps(records))
    (folder / "lessons.yaml").write_text(LESSONS_YAML)
    readable = [one for one in lessons if all((folder / name).is_file() for name in one["video"])]
    for name, rows in (("lessons", readable), ("theirs", theirs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
