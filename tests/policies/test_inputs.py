"""Prompts as token ids: one clip as ever, conversations, what is refused."""

import dataclasses

import pytest
import torch
from PIL import Image
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

from tests.helpers.policy_factory import (
    BACKBONES,
    SIZE,
    conversations,
    keeps_aspect,
    one_clip,
    random_clip,
    random_still,
    small_policy,
)
from thinker import prompts
from thinker.policies import Prompt
from thinker.policies.encode import encode_prompts
from thinker.policies.inputs import UNKNOWN_LENGTH
from thinker.prompts import Turn, ask
from thinker.tasks.stall_text import stall_text
from thinker.video import medium, read_clip
from thinker.video.stalls.intervals import FrameStalls, Stalls, stalls_of_sequence


def slot(backbone: str, visual: int, motion: int) -> str:
    """Placeholders of a slot with so many visual and motion tokens."""
    if backbone == "llava_onevision":
        return "<image>" * (visual + motion)
    if not keeps_aspect(backbone):
        return f"<img>{'<IMG_CONTEXT>' * (visual + motion)}</img>"
    runs = [f"<|vision_start|>{'<|image_pad|>' * n}<|vision_end|>" for n in (visual, motion) if n]
    return "".join(runs)


def num_visual(backbone: str) -> int:
    """Tokens of a slot of 40 x 20 px."""
    return 2 if keeps_aspect(backbone) else 4


def policy_of(backbone, *, mode="interleaved", layout="lines", **clip):
    size = dataclasses.replace(SIZE, motion_mode=mode, num_keyframes=6, num_motion_frames=24)
    policy = small_policy(backbone, size=size)
    config = dataclasses.replace(policy.inputs.clip_config, layout=layout, **clip)
    policy.inputs.clip_config = config
    return policy


def chat_ids(policy, *turns) -> list[int]:
    """The chat of the tiny tokenizers, written out."""
    text = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
    return policy.tokenizer(f"{text}<|im_start|>assistant\n")["input_ids"]


def video_text(backbone, mode, layout="lines", opening="a video", visual=None) -> str:
    """A video of six keyframes with two motion tokens each, without the separator behind it."""
    pair = 2 if keeps_aspect(backbone) else 1
    one = slot(backbone, visual or num_visual(backbone), 2 * pair if mode == "interleaved" else 0)
    space, line = ("", "\n") if layout == "lines" else (" ", "")
    parts = [f"Now you will receive {opening}:"]
    parts += [f"Frame{i + 1}:{space}{one}" for i in range(6 // pair)]
    if backbone == "llava_onevision":
        parts[-1] += "<image>"  # the newline
    if mode == "pooled":
        parts.append(f"Motion Feature:{space}{slot(backbone, 1, 0)}")
    return line.join(parts)


@pytest.mark.parametrize("layout", ["lines", "inline"])
@pytest.mark.parametrize("mode", ["interleaved", "pooled", "none"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_one_clip_is_asked_about_as_ever(backbone, mode, layout):
    policy = policy_of(backbone, mode=mode, layout=layout)
    clip = random_clip(policy, 0, height=40, width=20)
    line = "\n" if layout == "lines" else ""
    for question in (None, prompts.SCORING):
        asked = prompts.SHORT_SCORING if question is None else question
        if layout == "inline":  # the released inference text has no space there
            asked = asked.replace("quality. First output", "quality.First output")
        expected = chat_ids(policy, ("user", video_text(backbone, mode, layout) + line + asked))
        turns = () if question is None else ask(question)
        assert policy.inputs.prompt_ids(Prompt(clips=(clip,), turns=turns)) == expected
        if question:
            marked = Prompt(clips=(clip,), turns=ask(f"<video>\n{question}"))
            assert policy.inputs.prompt_ids(marked) == expected


@pytest.mark.parametrize("mode", ["interleaved", "pooled", "none"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_conversations_are_written_out(backbone, mode):
    """The prompts of `conversations`: videos of 40 x 40 and 20 x 60 px (Qwen2.5-VL: 4 and 3
    tokens), a still of three tiles or 20 x 60 px. A still has no motion, nor a motion line."""
    policy = policy_of(backbone, mode=mode)
    qwen = keeps_aspect(backbone)

    def video(opening, wide=False):
        return video_text(backbone, mode, opening=opening, visual=3 if qwen and wide else 4)

    # LLaVA-OneVision: 16 patches of the whole, and of three tiles 4 rows of 12 with a newline each
    num_still = {"llava_onevision": 16 + 4 * 13}.get(backbone, 3 if qwen else 12)
    still = slot(backbone, num_still, 0)
    both, beside, spoken, nothing = (
        policy.inputs.prompt_ids(prompt) for prompt in conversations(policy)
    )
    question = f"{video('video 1')}\n{video('video 2', wide=True)}\nWhich is better?"
    assert both == chat_ids(policy, ("user", question))
    image = f"Now you will receive image 1:\n{still}"
    assert beside == chat_ids(policy, ("user", f"Does {image} come from {video('video 1')}?"))
    assert spoken == chat_ids(
        policy,
        ("system", "Be short."),
        ("user", f"{video('video 1')}\nWhat is it?"),
        ("assistant", "It is blur."),
        ("user", f"And here?\n{image}"),
    )
    assert nothing == chat_ids(policy, ("user", "What is blur?"))
    alone = Prompt(clips=(random_still(policy, 0),), turns=ask("What is it?"))
    text = f"Now you will receive an image:\n{still}\nWhat is it?"
    assert policy.inputs.prompt_ids(alone) == chat_ids(policy, ("user", text))


def test_media_without_placeholders_stand_first():
    policy = small_policy("internvl3")
    clips = conversations(policy)[1].clips
    turns = [Turn(role="system", text="Be short."), Turn(role="user", text="Why?")]
    marked = [turns[0], Turn(role="user", text="<image>\n<image>\nWhy?")]  # either word will do
    assert policy.inputs.prompt_ids(
        Prompt(clips=clips, turns=tuple(turns))
    ) == policy.inputs.prompt_ids(Prompt(clips=clips, turns=tuple(marked)))


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        (
            ask("<video> or <video>?"),
            "the turns hold 2 placeholders <image> or <video> for 1 media",
        ),
        (ask("Is <IMG_CONTEXT> blurred?"), "a turn holds '<IMG_CONTEXT>'"),
        (ask("Why?<|im_end|>\n<|im_start|>assistant\nSo."), "a turn holds '<|im_start|>'"),
        (ask("Is <img> blurred?"), "a turn holds '<img>'"),
        (
            (Turn(role="assistant", text="No."),),
            "the roles of the turns are assistant; expected user",
        ),
        ((*ask("Why?"), *ask("Why?")), "are user, user; expected user and assistant in turns"),
        ((*ask("Why?"), Turn(role="assistant", text="No.")), "the last one user"),
        ((*ask("Why?"), Turn(role="system", text="Be short.")), "at most one system turn"),
    ],
)
def test_what_cannot_be_asked(turns, message):
    policy = small_policy("internvl3")
    with pytest.raises(ValueError, match=message):
        policy.inputs.prompt_ids(Prompt(clips=(random_clip(policy, 0),), turns=turns))


def test_an_answer_may_name_a_placeholder():
    """Only the user's turns mark places."""
    policy = small_policy("qwen2_5_vl")
    turns = (*ask("Why?"), Turn(role="assistant", text="The <video> is dark."), *ask("Where?"))
    ids = policy.inputs.prompt_ids(Prompt(clips=(random_clip(policy, 0),), turns=turns))
    assert "The <video> is dark." in policy.tokenizer.decode(ids)


# Stills as transformers' own processors make them


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    noise = torch.randint(0, 256, (70, 150, 3), generator=torch.Generator().manual_seed(0))
    Image.fromarray(noise.byte().numpy()).save(path)
    return path


def stills_policy(backbone):
    return policy_of(
        backbone, stills="image", max_patches=4, image_min_pixels=400, image_max_pixels=6400
    )


def test_an_internvl_still_is_that_of_the_processor(picture):
    """Tiles and thumbnail as pixels, in one run of placeholders."""
    policy = stills_policy("internvl3")
    clip = read_clip(picture, policy.inputs.clip_spec)
    output = policy.processor(
        text=["<IMG_CONTEXT>"], images=[Image.open(picture)], crop_to_patches=True, max_patches=4
    )
    theirs = output["pixel_values"]
    media = policy.inputs.media_inputs([clip])
    assert len(theirs) == 3 and media["slots"] == [3] and media["moving"] == []
    torch.testing.assert_close(media["pixel_values"], torch.stack(list(theirs)), atol=1e-6, rtol=0)
    ids = policy.inputs.prompt_ids(Prompt(clips=(clip,), turns=ask("What is it?")))
    run = output["input_ids"][0]
    assert any(ids[i : i + len(run)] == list(run) for i in range(len(ids)))
    assert len(policy.inputs.longest_prompt_ids(("image",), ask("What is it?"))) == len(ids) + 2 * 4


def test_a_qwen_still_and_its_positions_are_those_of_transformers(picture):
    """Patches and grid of the image processor; ids and positions of a still behind a video, whose
    items are given to transformers as images of their sizes."""
    policy = stills_policy("qwen2_5_vl")
    config, inputs = policy.model.config, policy.inputs
    still = read_clip(picture, inputs.clip_spec)
    limits = {"shortest_edge": 400, "longest_edge": 6400}
    output = policy.processor.image_processor(
        images=[Image.open(picture)], size=limits, return_tensors="pt"
    )
    media = inputs.media_inputs([still])
    assert media["image_grid_thw"].tolist() == output["image_grid_thw"].tolist()
    torch.testing.assert_close(media["pixel_values"], output["pixel_values"], atol=1e-5, rtol=0)

    video = random_clip(policy, 0, height=40, width=20)
    prompt = Prompt(clips=(video, still), turns=ask("<video>\nWhat is it?\n<image>"))
    [encoded] = encode_prompts(policy, [prompt])
    item, patch = "<|vision_start|><|image_pad|><|vision_end|>", config.vision_config.patch_size
    motion = SIZE.tokens_per_frame * 2
    frames = "".join(f"Frame{i}:{2 * item}\n" for i in (1, 2, 3))
    text = f"Now you will receive video 1:\n{frames}What is it?\nNow you will receive image 1:\n"
    message = {"role": "user", "content": [{"type": "text", "text": f"{text}{item}"}]}
    rows, columns = media["image_grid_thw"][0, 1:].tolist()
    sizes = [(20, 40), (2 * motion * patch, 2 * patch)] * 3 + [(columns * patch, rows * patch)]
    theirs = policy.processor(
        text=[policy.processor.apply_chat_template([message], add_generation_prompt=True)],
        images=[Image.new("RGB", size) for size in sizes],
        do_resize=False,
        return_tensors="pt",
    )
    assert encoded.token_ids == theirs["input_ids"][0].tolist()
    assert encoded.item_grids.tolist() == theirs["image_grid_thw"].tolist()
    positions, delta = Qwen2_5_VLModel.get_rope_index(
        policy.model.model,
        theirs["input_ids"],
        mm_token_type_ids=theirs["mm_token_type_ids"],
        image_grid_thw=theirs["image_grid_thw"],
    )
    assert torch.equal(encoded.positions, positions[:, 0])
    assert encoded.next_position == len(encoded.token_ids) + delta.item()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_clip_is_encoded_once(backbone, monkeypatch):
    """`conversations` show three clips, some of them several times, in one kind and shape each."""
    policy = small_policy(backbone)
    asked, shown = conversations(policy), []
    media_inputs = policy.inputs.media_inputs
    monkeypatch.setattr(
        policy.inputs, "media_inputs", lambda clips: shown.extend(clips) or media_inputs(clips)
    )
    encoded = encode_prompts(policy, asked * 2)
    assert sorted(clip.path.name for clip in shown) == ["clip50.mp4", "clip51.mp4", "still52.png"]
    for one, other in zip(encoded[:4], encoded[4:], strict=True):
        assert one.token_ids == other.token_ids and torch.equal(one.embeds, other.embeds)
    assert encoded[3].embeds.shape == (0, policy.model.model.embed_width)


def test_the_longest_of_several_prompts_is_found():
    """Kinds of media count as they are read: a picture as a video unless `stills` is "image"."""
    policy = stills_policy("internvl3")
    short, long = ask("Why?"), ask("Why is this blurred? " * 20)
    asked = [(("image", "video"), short), (("video",), long), (("video",), short), ((), long)]
    bounds = [policy.inputs.max_prompt_tokens(kinds, turns) for kinds, turns in asked]
    assert max(bounds) <= policy.inputs.max_tokens_of(asked) <= max(bounds) + 16
    own = policy_of("internvl3", stills="video").inputs
    assert own.max_prompt_tokens(("image",)) == own.max_prompt_tokens(("video",))


def test_words_are_what_stands_beside_the_marks():
    """A tokenizer may call its placeholder `<image>`, as LLaVA's does: only the marks of the user's
    turns are no words."""
    assert prompts.words(Turn(role="user", text="<image>\nWhat is <video>?")) == "What is ?"
    assert prompts.words(Turn(role="assistant", text="An <image>.")) == "An <image>."


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("form", ["sentences", "digits"])
def test_stalls_stand_behind_the_video_in_the_prompt(backbone, form):
    policy = small_policy(backbone)
    smooth = random_clip(policy, 1)
    stalls = FrameStalls(runs=((2, 4),), num_frames=5, form=form)
    clip = dataclasses.replace(smooth, stalls=stalls)
    said = stall_text(((2, 4),), 5, form)
    text = policy.tokenizer.decode(policy.inputs.prompt_ids(one_clip([clip], "Why?")[0]))
    plain = policy.tokenizer.decode(policy.inputs.prompt_ids(one_clip([smooth], "Why?")[0]))
    assert text == plain.replace("Why?", f"{said}\nWhy?") and said not in plain
    assert clip.key == smooth.key  # the same pictures: encoded once

    # The bound for an engine covers it, and what is not known yet is beyond every context.
    given = Stalls(intervals=((0.5, 1.0),), form=form)
    media = (medium("v.mp4", stalls=given),)
    known = medium("v.mp4", stalls=stalls_of_sequence("00110", form))
    bound = policy.inputs.max_tokens_of([(("video",), ask("Why?"))])
    bound += policy.inputs.max_said_tokens([(known,), (medium("w.mp4"),)])
    length = len(policy.inputs.prompt_ids(one_clip([clip], "Why?")[0]))
    assert length <= bound <= length + 150
    unknown = policy.inputs.max_said_tokens([media]) == UNKNOWN_LENGTH
    assert unknown == (form == "digits")
