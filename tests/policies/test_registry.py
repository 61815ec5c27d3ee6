"""A backbone is one file and one dict line: one from outside is used as the package's own."""

from dataclasses import fields, replace

import pytest
import torch
from transformers import AutoModelForImageTextToText

from tests.helpers.policy_factory import SIZE, one_clip, random_clip
from thinker.policies import (
    BACKBONES,
    Backbone,
    backbone_name,
    load_policy,
    plain_config,
    register,
    tiny_policy,
)
from thinker.policies.backbone import MotionBackbone
from thinker.policies.encode import encode_prompts
from thinker.policies.square.internvl3 import (
    InternVLInputs,
    ThinkerInternVLConfig,
    ThinkerInternVLForConditionalGeneration,
    ThinkerInternVLModel,
    tiny,
)

# What stands in the one file of a backbone


class ToyConfig(ThinkerInternVLConfig):
    model_type = "thinker_toy"


class ToyModel(ThinkerInternVLModel):
    config: ToyConfig


class ToyForConditionalGeneration(ThinkerInternVLForConditionalGeneration):
    config: ToyConfig
    backbone_class = ToyModel


class ToyInputs(InternVLInputs):
    """A slot shows its placeholders between other marks."""

    def slot_text(self, num_visual: int, num_motion: int) -> str:
        return f"({self.image_token * (num_visual + num_motion)})"


def toy_tiny(size, texts):
    config, processor = tiny(size, texts)
    values = config.to_dict()
    values.pop("model_type")
    return ToyConfig(**values), processor


TOY = replace(
    BACKBONES["internvl3"],
    plain_type="toy",
    config=ToyConfig,
    model=ToyForConditionalGeneration,
    inputs=ToyInputs,
    tiny=toy_tiny,
)


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(BACKBONES, "toy", TOY)  # the one line
    register()
    return tiny_policy("toy", size=SIZE, texts=("It is blur.",))


def test_a_toy_backbone_is_built_saved_loaded_and_encoded(toy, tmp_path):
    assert type(toy.model) is ToyForConditionalGeneration and type(toy.model.model) is ToyModel
    assert isinstance(toy.inputs, ToyInputs)
    toy.save(tmp_path)
    again = load_policy(tmp_path)
    assert type(again.model) is ToyForConditionalGeneration and again.new_parts == ()
    assert type(AutoModelForImageTextToText.from_pretrained(tmp_path)) is type(toy.model)
    expected, got = toy.model.state_dict(), again.model.state_dict()
    assert list(got) == list(expected)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    clips = [random_clip(toy, seed) for seed in range(2)]
    before, after = (encode_prompts(policy, one_clip(clips)) for policy in (toy, again))
    for one, other in zip(before, after, strict=True):
        assert one.token_ids == other.token_ids and torch.equal(one.embeds, other.embeds)
    # A slot is 2 x 2 visual tokens and 2 motion tokens.
    text = toy.tokenizer.decode(before[0].token_ids)
    assert text.count("(" + 6 * "<IMG_CONTEXT>" + ")") == SIZE.num_keyframes
    assert len(before[0].embeds) == SIZE.num_keyframes * 6


def test_a_toy_backbone_has_the_weights_of_the_one_it_extends(toy):
    """The seed draws the same weights, as nothing about a backbone is looked up by its name."""
    other = tiny_policy("internvl3", size=SIZE, texts=("It is blur.",)).model.state_dict()
    for name, tensor in toy.model.state_dict().items():
        assert torch.equal(tensor, other[name]), name


def test_names():
    for name, backbone in BACKBONES.items():
        for model_type in (backbone.config.model_type, backbone.plain_type):
            assert BACKBONES[backbone_name(model_type)].model is backbone.model, name
    assert backbone_name("internvl") == "internvl3"  # and 3.5, which has the same classes
    with pytest.raises(ValueError, match="no policy for model_type 'toy'; a checkpoint must be"):
        backbone_name("toy")
    with pytest.raises(ValueError, match="no tiny policy for backbone 'toy'; known: "):
        tiny_policy("toy")
    with pytest.raises(ValueError, match=r"'internvl_chat'.*thinker convert"):
        backbone_name("internvl_chat")


@pytest.mark.parametrize("name", list(BACKBONES))
def test_a_plain_configuration_holds_nothing_of_ours(name):
    config = tiny_policy(name, size=SIZE).model.config
    plain = plain_config(config)
    assert plain.model_type == BACKBONES[name].plain_type
    assert not {"motion_config", "clip_config", "scoring_question"} & set(plain.to_dict())
    assert plain.vision_config.to_dict() == config.vision_config.to_dict()


def test_every_backbone_says_everything():
    """Of its own: a class that forgets a method would only fail when a run needs it."""
    for backbone in BACKBONES.values():
        assert all(getattr(backbone, field.name) for field in fields(Backbone))
        needed = (
            "tower", "vision_part", "vision_projector", "patches_per_token", "encode_slots",
            "tower_features", "project_slots", "prompt_positions", "tower_load", "video_load",
            "tower_work",
        )  # fmt: skip
        own = backbone.model.backbone_class
        missing = {
            name for name in needed if getattr(own, name) is getattr(MotionBackbone, name, None)
        }
        if own.visual_tokens is not MotionBackbone.visual_tokens:  # not so many patches a token
            missing -= {"patches_per_token"}
        assert not missing
