"""Supervised training in packed rows: loss and gradients are those of one plain row an example."""

import dataclasses

import pytest
import torch
from transformers import TrainingArguments

from tests.helpers.exact_precision import use_exact_precision
from tests.helpers.policy_factory import (
    BACKBONES,
    FRAME_POLICIES,
    random_clip,
    random_still,
    small_policy,
)
from thinker.config.run import (
    LoraSettings,
    ModelSettings,
    RunConfig,
    SftStage,
    SourceSettings,
)
from thinker.data.examples import Example
from thinker.data.mixture import Source
from thinker.policies import Prompt, load_policy
from thinker.policies.shared_prompt import enable_shared_prompt
from thinker.prompts import Turn, ask
from thinker.tasks.stall_text import stall_text
from thinker.train.parts import freeze_others, trained_parameters, with_lora
from thinker.train.run_data import Labels
from thinker.train.sft.collator import PackedCollator
from thinker.train.sft.tokens import tokenise
from thinker.train.sft.trainer import SupervisedTrainer, packed_loss
from thinker.train.start import tokenizer_texts
from thinker.video import VideoError
from thinker.video.medium import medium
from thinker.video.stalls.intervals import FrameStalls, Stalls

LONG = "It is blur, and then it is blur again, and so on to the end of the video."


@dataclasses.dataclass(frozen=True)
class Media:
    """Stands for the reader: noise drawn from the number that is the name of the file."""

    policy: object

    def __call__(self, wanted):
        make = random_still if wanted.kind == "image" else random_clip
        return make(self.policy, int(wanted.path.stem))


def example(number, media, turns, answer):
    return Example(
        id=str(number), dataset="t", task="open", turns=tuple(turns), reference=answer,
        media=tuple(medium(f"/m/{name}") for name in media), content=str(number),
    )  # fmt: skip


def talk(*texts):
    """User and assistant in turns, the user first."""
    roles = ("user", "assistant") * len(texts)
    return [Turn(role=role, text=text) for role, text in zip(roles, texts, strict=False)]


EXAMPLES = [
    example(0, ["1.mp4"], ask("<video>\nWhat is it?"), "It is blur."),
    example(1, ["1.mp4"], ask("<video>\nWhat is it?"), LONG),
    example(2, ["1.mp4"], talk("<video>\nIs it good?", "It is blur.", "Why?"), "It is."),
    example(3, ["2.mp4"], ask("<video>\nWhat is it?"), "No."),
    example(4, ["2.mp4"], (), "<think>It is blur.</think><answer>2.50</answer>"),
    example(5, ["2.mp4"], ask("<video>\nWhy?"), "It is."),
    example(6, ["3.png", "1.mp4"], ask("Is <image> of <video>?"), "No."),
    example(7, ["1.mp4", "3.png"], talk("<video>\nGood?", "It is.", "<image>\nAnd?"), "No, it is."),
    example(8, ["4.mp4"], ask("What is <video>?"), "It is blur."),
    example(9, ["4.mp4"], ask("And what is <video>?"), "It is blur."),
    example(10, [], ask("What is blur?"), "It is blur."),
    example(0, ["1.mp4"], ask("<video>\nWhat is it?"), "It is blur."),
]
"""Three and three branches about two videos; two media, in a later turn, too; a question before its
video, which shares no prefix; text only; and an example that comes twice."""


def gradients(policy):
    return {
        name: parameter.grad.clone()
        for name, parameter in policy.model.named_parameters()
        if parameter.grad is not None
    }


def plain(policy, examples):
    """The oracle: a row and an encoding for each example, labels -100 but for answers, default
    attention; the mean over all answer tokens."""
    backbone = policy.model.model
    losses, count = [], 0
    for one in examples:
        clips = [Media(policy)(m) for m in one.media]
        turns = one.turns or ask(policy.inputs.question)
        ids, labels = [], []
        for place, turn in enumerate([*turns, Turn(role="assistant", text=one.reference)]):
            if turn.role != "assistant":
                continue
            # By hand: all that the prompt holds so far, with the numbering of the whole prompt.
            whole = policy.inputs.prompt_ids(Prompt(clips=tuple(clips), turns=tuple(turns)))
            end = policy.tokenizer.eos_token_id
            stops = [i + 1 for i, token in enumerate(whole) if token == end]
            head = len(whole) - stops[-1]
            until = len(whole) if place == len(turns) else stops[place - 1] + head
            ids, labels = ids + whole[len(ids) : until], labels + [-100] * (until - len(labels))
            said = [*policy.tokenizer(turn.text)["input_ids"], end]
            ids, labels = ids + said, labels + said
        row, mask = torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long)
        media = policy.inputs.media_inputs(clips)
        shown = [tuple(range(len(clips)))]
        positions = backbone.prompt_positions(row, mask, media, shown)
        logits = policy.model(
            input_ids=row, attention_mask=mask, position_ids=positions.ids, media_inputs=media,
            media_rows=shown,
        ).logits  # fmt: skip
        targets = torch.tensor(labels[1:])
        losses.append(torch.nn.functional.cross_entropy(logits[0, :-1], targets, reduction="sum"))
        count += int((targets != -100).sum())
    return torch.stack(losses).sum() / count, count


@pytest.mark.parametrize("backbone", [*BACKBONES, *FRAME_POLICIES])
def test_packed_rows_have_the_loss_and_gradients_of_plain_rows(backbone, monkeypatch):
    use_exact_precision(monkeypatch.setattr)
    policy = small_policy(backbone)
    policy.model.double()
    policy.model.freeze(["slowfast"])  # most of the time of this test, and fed as the projector is
    expected, count = plain(policy, EXAMPLES)
    expected.backward()
    wanted = gradients(policy)
    policy.model.zero_grad()
    batch = PackedCollator(policy, Media(policy))(EXAMPLES)
    # the two groups of three; two media, a later medium, the shared prefix that fails (twice),
    # text only and the repeated example are rows of their own
    sizes = [len(f["branch_ids"]) // len(f["prefix_ids"]) for f in batch["forwards"]]
    assert dict(zip(sizes, (len(f["prefix_ids"]) for f in batch["forwards"]), strict=True)) == {
        3: 2, 1: 6,
    }  # fmt: skip
    assert int((batch["shift_labels"] != -100).sum()) == count
    enable_shared_prompt(policy.model)
    loss = policy.model(
        in_chunks=lambda forward: packed_loss(batch["forwards"], torch.tensor(count), forward)
    )["loss"]
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    found = gradients(policy)
    assert found.keys() == wanted.keys()
    largest = max(float(x.abs().max()) for x in wanted.values())
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-8, atol=1e-10 * largest)


@pytest.mark.parametrize("backbone", [*BACKBONES, *FRAME_POLICIES])
@pytest.mark.parametrize("parts", [("slowfast", "motion_projector"), ("vision_tower",)])
def test_gradients_reach_the_parts_of_a_stage_and_no_other(backbone, parts):
    """Stage 1 of VQA² trains the motion branch on videos, the tower on pictures; in its published
    port to Qwen2.5-VL no gradient reaches SlowFast."""
    policy = small_policy(backbone)
    freeze_others(policy, dict.fromkeys(parts, 1e-3))
    batch = PackedCollator(policy, Media(policy))(EXAMPLES[:1])
    enable_shared_prompt(policy.model)
    count = (batch["shift_labels"] != -100).sum()
    policy.model(in_chunks=lambda forward: packed_loss(batch["forwards"], count, forward))[
        "loss"
    ].backward()
    part_of = {id(p): part for part, p in trained_parameters(policy.model)}
    fed = [p for p in policy.model.parameters() if p.grad is not None]
    reached = {part_of[id(p)] for p in fed}
    moved = {part_of[id(p)] for p in fed if p.grad.any()}
    assert reached == moved == set(parts)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_is_trained_beside_lora_moves_and_is_saved(backbone, tmp_path):
    """Two steps of pictures, videos and text, with gradient checkpointing. In the published recipe
    of ViDA-UGC tower and projector stay as they were."""
    small_policy(backbone).save(tmp_path / "start")
    start, policy = (load_policy(tmp_path / "start") for _ in range(2))
    rates = {"lora": 1e-3, "vision_projector": 1e-4, "vision_tower": 1e-4}
    stage = SftStage(
        name="lessons", kind="sft", data=(SourceSettings(config="d.yaml"),), train=rates,
        lora=LoraSettings(r=2, alpha=4, dropout=0.05),
    )  # fmt: skip
    freeze_others(policy, rates)
    args = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=6, max_steps=2, report_to=[],
        save_strategy="no", use_cpu=True, disable_tqdm=True, gradient_checkpointing=True,
    )  # fmt: skip
    trainer = SupervisedTrainer(
        policy=policy, model=with_lora(policy, stage, is_autocast=False), args=args, rates=rates,
        sources=[Source(examples=tuple(EXAMPLES[:-1]))], read_clip=Media(policy),
    )  # fmt: skip
    trainer.train()
    trainer.trained_policy(policy).save(tmp_path / "final")
    saved = load_policy(tmp_path / "final").model
    moved = {"vision_tower", "vision_projector", "language_model"}
    before, after = start.model.parts(), saved.parts()
    for part, module in before.items():
        pairs = zip(module.parameters(), after[part].parameters(), strict=True)
        assert any(not a.equal(b) for a, b in pairs) == (part in moved), part
    assert saved.lm_head.weight.equal(start.model.lm_head.weight)


def test_examples_of_a_lost_medium_are_left_out(caplog):
    policy = small_policy("internvl3")
    media = Media(policy)
    one = example(1, ["1.mp4"], ask("<video>\nWhy?"), "So.")
    other = example(2, ["2.mp4"], ask("<video>\nWhy?"), "It is.")

    def lost(*names):
        def read(wanted):
            if wanted.path.name in names:
                raise VideoError(wanted.path, "missing")
            return media(wanted)

        return PackedCollator(policy, read, spare=[one, other])

    expected = PackedCollator(policy, media)([other])
    assert lost("1.mp4")([one, other])["labels"].equal(expected["labels"])
    assert lost("1.mp4")([one])["labels"].equal(expected["labels"])  # the other stands in
    assert "left out of a batch: /m/1.mp4: missing" in caplog.text
    with pytest.raises(ValueError, match="no medium of 1 can be read, nor of"):
        lost("1.mp4", "2.mp4")([one])


def test_the_head_sees_branches_only(monkeypatch):
    policy = small_policy("internvl3")
    batch = PackedCollator(policy, Media(policy))(EXAMPLES[:3])
    enable_shared_prompt(policy.model)
    seen = []
    policy.model.lm_head.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    packed_loss(batch["forwards"], torch.tensor(1), policy.model)
    (forward,) = batch["forwards"]
    assert seen == [3 * forward["branch_ids"].shape[1]]


def test_taught_are_all_answers_with_their_end_tokens():
    policy = small_policy("internvl3")
    clip = random_clip(policy, 1)
    turns = talk("<video>\nGood?", "It is.", "Why?", "It is blur.")
    lesson = tokenise(policy, [clip], [Turn(role="system", text="Be short."), *turns])
    taught = [i for i, t in zip(lesson.ids, lesson.taught, strict=True) if t]
    end = policy.tokenizer.eos_token_id
    tokens = policy.tokenizer
    assert taught == [
        *tokens("It is.")["input_ids"], end, *tokens("It is blur.")["input_ids"], end,
    ]  # fmt: skip


def test_a_level_with_a_mos_is_taught_by_its_word():
    """A number would be no answer to the question; the words are those of the policy."""
    policy = small_policy("internvl3")
    rated = dataclasses.replace(
        example(20, ["1.mp4"], ask("<video>\nHow is it?"), "2.4"), task="level", target=2.4, mos=2.4
    )
    (row,) = PackedCollator(policy, Media(policy)).rows([rated])
    said = policy.inputs.levels.sentence("video", 2.4)
    taught = policy.tokenizer(said)["input_ids"]
    assert row.lessons[0].ids[-len(taught) - 1 : -1] == taught


def test_a_tiny_policy_knows_the_level_words_that_its_run_gives_it():
    rated = dataclasses.replace(
        example(21, ["1.mp4"], ask("<video>\nHow is it?"), "2.4"), task="level", target=2.4, mos=2.4
    )
    stage = SftStage(
        name="levels",
        kind="sft",
        data=(SourceSettings(config="c.yaml"),),
        train={"language_model": 1e-4},
    )
    own = ["dire", "weak", "mild", "nice", "superb"]
    config = RunConfig(model=ModelSettings(levels={"words": own}), stages=(stage,))
    labels = Labels(stages={"levels": [Source(examples=(rated,))]}, eval_sets=[])
    assert "The quality of the video is weak." in tokenizer_texts(config, labels)


def test_a_text_that_ends_turns_is_refused():
    policy = small_policy("internvl3")
    marked, plain_text = "It is.<|im_end|>", "So."
    for first, last, reason in ((marked, plain_text, "a turn"), (plain_text, marked, "an answer")):
        turns = talk("Good?", first, "Why?", last)
        with pytest.raises(ValueError, match=rf"{reason} holds '<\|im_end\|>'"):
            tokenise(policy, [], turns)


def test_lessons_say_where_a_video_stalls():
    """The words are read, not taught, and lessons about one video with the same stalls share
    them."""
    policy = small_policy("internvl3")
    stalls = FrameStalls(runs=((2, 4),), num_frames=5, form="digits")
    clip = dataclasses.replace(random_clip(policy, 1), stalls=stalls)
    lesson = tokenise(policy, [clip], talk("<video>\nWhat is it?", "It is blur."))
    said = stall_text(((2, 4),), 5, "digits")
    read = [i for i, taught in zip(lesson.ids, lesson.taught, strict=True) if not taught]
    assert f"{said}\nWhat is it?" in policy.tokenizer.decode(read)
    told = medium("/m/1.mp4", stalls=Stalls(intervals=((0.1, 0.2),)))
    other = dataclasses.replace(told, stalls=None)
    examples = [dataclasses.replace(EXAMPLES[n], media=(m,)) for n, m in
                ((0, told), (1, told), (2, other))]  # fmt: skip
    rows = PackedCollator(policy, lambda wanted: clip if wanted.stalls else Media(policy)(wanted))
    assert [len(row.lessons) for row in rows.rows(examples)] == [2, 1]
