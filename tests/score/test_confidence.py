"""How sure the policy is of its boxes: against a forward of the plain prompt, token by token."""

import math

import pytest
import torch
from PIL import Image

from tests.helpers.policy_factory import BACKBONES, small_policy
from tests.helpers.scripted_rollout import ScriptedTexts
from tests.helpers.video_factory import frame_pattern
from thinker.policies.encode import encode_prompts
from thinker.policies.inputs import Prompt
from thinker.prompts import ask
from thinker.score.confidence import completion_logprobs, confidence, token_ends
from thinker.score.scorer import QualityScorer
from thinker.video import read_clip

TEXT = "Noise: severe noise (10,20),(300,400) (1,2),(30,40)\nLow clarity: (5,6),(70,80)."


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    Image.fromarray(frame_pattern(5, 64, 48)).save(path)
    return path


@pytest.fixture(scope="module", params=BACKBONES)
def policy(request):
    return small_policy(request.param)


def test_every_token_has_the_probability_of_one_forward_without_padding(policy, picture) -> None:
    """Two prompts and answers of different lengths in one call, each against its own prefixes."""
    clip = read_clip(picture, policy.inputs.clip_spec)
    prompts = [Prompt(clips=(clip,), turns=ask(text)) for text in ("Where?", "What is wrong, and?")]
    requests = encode_prompts(policy, prompts)
    answers = [policy.tokenizer(text)["input_ids"] for text in (TEXT, "Noise.")]
    found = completion_logprobs(policy, requests, answers)
    assert [len(row) for row in found] == [len(answer) for answer in answers]
    for request, answer, row in zip(requests, answers, found, strict=True):
        for place in (0, len(answer) - 1):
            (alone,) = completion_logprobs(policy, [request], [answer[: place + 1]])
            assert row[place] == pytest.approx(alone[-1], abs=1e-4)
    first = policy.model.model(
        input_ids=torch.tensor([requests[0].token_ids]),
        attention_mask=torch.ones(1, len(requests[0].token_ids), dtype=torch.long),
        position_ids=requests[0].positions[..., None, :],
        media_embeds=[requests[0].embeds],
    ).last_hidden_state[:, -1]
    logits = policy.model.get_output_embeddings()(first).float().log_softmax(-1)
    assert found[0][0] == pytest.approx(logits[0, answers[0][0]].item(), abs=1e-4)


def test_a_box_is_as_sure_as_its_label_and_its_corners(policy, picture) -> None:
    scorer = QualityScorer(policy, ScriptedTexts(policy, [TEXT]))
    row = scorer.ask(picture, "Where?", task="boxes")
    assert [(one.name, one.severity, one.box) for one in row.boxes] == [
        ("noise", "severe", (10, 20, 300, 400)),
        ("noise", "severe", (1, 2, 30, 40)),
        ("low clarity", None, (5, 6, 70, 80)),
    ]
    clip = read_clip(picture, policy.inputs.clip_spec)
    request = encode_prompts(policy, [Prompt(clips=(clip,), turns=ask("Where?"))])
    ids = policy.tokenizer(TEXT)["input_ids"]
    (known,) = completion_logprobs(policy, request, [ids])
    ends = token_ends(policy.processor, ids)
    said = [policy.tokenizer.decode(ids[:count]) for count in range(len(ids) + 1)]

    def mean(piece: str) -> float:
        start = TEXT.index(piece)
        own = [known[i] for i in range(len(ids))
               if len(said[i + 1]) > start and len(said[i]) < start + len(piece)]  # fmt: skip
        return sum(own) / len(own)

    wanted = [mean("severe noise") + mean("(10,20),(300,400)"),
              mean("severe noise") + mean("(1,2),(30,40)"),
              mean("Low clarity") + mean("(5,6),(70,80)")]  # fmt: skip
    assert [one.confidence for one in row.boxes] == pytest.approx([*map(math.exp, wanted)])
    assert ends[-1] == len(TEXT)
    plain = row.to_row()["boxes"]
    assert plain[0]["name"] == "noise" and plain[0]["confidence"] == row.boxes[0].confidence


def test_rows_of_other_tasks_have_no_boxes(policy, picture) -> None:
    row = QualityScorer(policy, ScriptedTexts(policy, [TEXT])).ask(picture, "Where?")
    assert row.boxes == () and "boxes" not in row.to_row()


def test_a_piece_without_tokens_counts_nothing() -> None:
    assert confidence([(0, 1)], [], []) == 1.0
