"""Expected scores: the tree against plain forwards and against every path there is."""

import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

import thinker.score.expected
import thinker.score.scorer
from tests.helpers.policy_factory import BACKBONES, conversations, random_clip
from tests.helpers.rollout_oracle import engine_policy, plain_logprobs, prompts_of
from tests.helpers.scripted_rollout import ScriptedTexts
from thinker.policies.encode import encode_prompts
from thinker.rollout.base import Completion, Sampling
from thinker.rollout.hf import HfRollout
from thinker.rollout.tree import Node, Tree
from thinker.score.expected import CLOSE, OPEN, PRUNED, AnswerTree, can_follow
from thinker.score.scorer import QualityScorer, check_mode

TEXT = "<think>It is blur.</think><answer>2.50</answer>"


def likely_numbers(backbone):
    """A tiny policy that holds signs of numbers for likely, so that there is a tree to grow."""
    policy = engine_policy(backbone, amplify=1.5)
    head = policy.model.get_output_embeddings()
    for sign, more in [("2", 7.0), ("4", 7.0), (".", 7.0), ("</", 8.0)]:
        head.bias[policy.tokenizer(sign, add_special_tokens=False)["input_ids"][-1]] += more
    return policy


# the tree of tokens


@pytest.mark.parametrize("backbone", BACKBONES)
def test_nodes_in_the_cache_of_the_reasoning_equal_plain_forwards(backbone):
    """Prompts of several lengths; the roots stand at different places; two depths of three nodes,
    of which a row has fewer. Once in the cache that generation left, once in one read anew."""
    policy = engine_policy(backbone, amplify=1.5)
    prompts = [*prompts_of(policy, 2), *conversations(policy)[:2]]
    requests = encode_prompts(policy, prompts)
    rollout = HfRollout(policy.model, policy.tokenizer.pad_token_id, [])
    greedy = Sampling(max_new_tokens=6, temperature=0.0)
    completions, kept = rollout.generate_kept(requests, greedy)
    assert completions == [one for (one,) in rollout.generate(requests, 1, greedy, seed=0)]
    starts = [3, 1, 6, 2]
    signs = policy.tokenizer("3.5", add_special_tokens=False)["input_ids"]
    for cache in (kept, rollout.read_kept(requests, completions)):
        tree = Tree(policy.model, cache, requests, starts)
        roots = [
            Node(token=one.token_ids[start - 1])
            for one, start in zip(completions, starts, strict=True)
        ]
        known = tree.grow([[root] for root in roots])
        first = [[Node(token=t, parent=root) for t in signs] for root in roots]
        first[2] = []
        tree.grow(first)
        second = [
            [Node(token=signs[1], parent=n[-1]), Node(token=signs[2], parent=n[0])] if n else []
            for n in first
        ]
        below = tree.grow(second)
        assert tree.num_forwarded == [6, 6, 1, 6]
        for row, prompt in enumerate(prompts):
            said = completions[row].token_ids[: starts[row]]
            plain = plain_logprobs(policy, prompt, [*said, 0])[-1]
            torch.testing.assert_close(known[row][0], plain.float(), atol=1e-4, rtol=1e-4)
            for node, found in zip(second[row], below[row], strict=True):
                path = [*said, node.parent.token, node.token, 0]
                plain = plain_logprobs(policy, prompt, path)[-1]
                torch.testing.assert_close(found, plain.float(), atol=1e-4, rtol=1e-4)


# the tree of answers


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_distribution_is_that_of_plain_forwards_over_every_likely_path(backbone):
    policy = likely_numbers(backbone)
    (prompt,) = prompts_of(policy, 1)
    answers = AnswerTree(policy)
    rollout = ScriptedTexts(policy, [TEXT])
    ((completion, expected),) = answers.followed(rollout, encode_prompts(policy, [prompt]), 50)
    ids = policy.tokenizer(TEXT)["input_ids"]
    assert completion.token_ids == ids
    start = next(n for n in range(len(ids)) if OPEN in policy.tokenizer.decode(ids[:n]))
    found, count = defaultdict(float), 0
    level = [([], 1.0)]
    for _ in range(8):
        following = []
        for path, probability in level:
            count += 1
            shares = plain_logprobs(policy, prompt, [*ids[:start], *path, 0])[-1].exp()
            for token, piece in answers.pieces.items():
                text = "".join(answers.pieces[t] for t in path) + piece
                own = probability * shares[token].item()
                if not can_follow(text):
                    continue
                if "<" in text:
                    found[float(text.partition("<")[0])] += own
                elif own >= PRUNED:
                    following.append(([*path, token], own))
        level = following
    # There is a tree; by the weights of the others one of three nodes and two scores, or more.
    few, many = (3, 5) if backbone in ("internvl3", "qwen2_5_vl") else (1, 2)
    assert len(found) > few and count > many
    assert expected.kept == pytest.approx(sum(found.values()), abs=1e-5)
    assert expected.num_forwarded == count
    assert dict(expected.distribution) == pytest.approx(
        {score: own / sum(found.values()) for score, own in found.items()}, abs=1e-4
    )


class Toy:
    """A tokenizer and a language model in one: tokens of one to nine characters, each as likely as
    its rank behind the last character of the text."""

    vocabulary = ("a", OPEN, ">", "<answer", "3", "4", "35", "4.", ".", ".5", "0", "50", ">4", "<",
                  "</", "</answer", CLOSE, " ", "9", "<answ", "er", "er>", "er>3")  # fmt: skip

    def __init__(self):
        head = SimpleNamespace(out_features=len(self.vocabulary))
        self.model = SimpleNamespace(get_output_embeddings=lambda: head)
        self.processor = self

    def tokenizer(self, text, add_special_tokens):
        return {"input_ids": [self.vocabulary.index(text)]}

    def decode(self, ids, skip_special_tokens):
        return "".join(self.vocabulary[token] for token in ids)

    def batch_decode(self, rows, skip_special_tokens):
        return [self.decode(row, True) for row in rows]

    def logprobs(self, text):
        seed = torch.Generator().manual_seed(sum(map(ord, text)))
        return (2 * torch.randn(len(self.vocabulary), generator=seed)).log_softmax(-1)


class ToyTree:
    """In the place of `Tree`: what follows is given by the text."""

    def __init__(self, model, kept, requests, starts):
        self.num_forwarded = [0] * len(starts)

    def grow(self, levels):
        self.num_forwarded = [n + len(x) for n, x in zip(self.num_forwarded, levels, strict=True)]
        return [torch.stack([Toy().logprobs(node.text) for node in nodes]) for nodes in levels]


def every_path(given, text="", probability=1.0, depth=0):
    """(score, probability) of all ways to write a number, by their definition."""
    if depth == 8:
        return
    shares = Toy().logprobs(text).exp().tolist()
    for piece, share in zip(Toy.vocabulary, shares, strict=True):
        own = text + piece
        if not (own.startswith(given) or given.startswith(own)):
            continue
        number, closed, rest = own[len(given) :].partition("<")
        if closed:
            is_number = number.strip().replace(".", "", 1).isdigit()
            is_number &= number.strip()[:1] != "." and number.strip()[-1:] != "."
            if is_number and CLOSE.startswith(f"<{rest}") and 1 <= float(number) <= 5:
                yield float(number), probability * share
        elif probability * share > 1e-5:
            yield from every_path(given, own, probability * share, depth + 1)


@pytest.mark.parametrize(
    ("pieces", "given"),
    [(["a", OPEN, "4", CLOSE], ""), (["a", "<answer", ">4", CLOSE], ">"),
     (["<answ", "er>3", CLOSE], "er>")],
)  # fmt: skip
def test_any_tokenizer_will_do(monkeypatch, pieces, given):
    """Numbers in one token or several, the tag's end inside a token; nothing pruned, every way to
    write a number adds up."""
    toy = Toy()
    ids = [toy.vocabulary.index(piece) for piece in pieces]
    monkeypatch.setattr(thinker.score.expected, "Tree", ToyTree)
    monkeypatch.setattr(thinker.score.expected, "PRUNED", 1e-5)
    monkeypatch.setattr(
        thinker.score.expected,
        "hf_rollout",
        lambda policy: SimpleNamespace(read_kept=lambda *given: None),
    )
    rollout = SimpleNamespace(generate=lambda *a, **k: [[Completion(token_ids=ids)]])
    ((_, expected),) = AnswerTree(toy).followed(rollout, ["request"], 50)
    found = defaultdict(float)
    for score, probability in every_path(given):
        found[score] += probability
    assert len(found) > 5 and expected.kept == pytest.approx(sum(found.values()), abs=1e-3)
    mean = sum(score * share for score, share in found.items()) / sum(found.values())
    ours = sum(score * share for score, share in expected.distribution)
    assert ours == pytest.approx(mean, abs=1e-3)
    monkeypatch.setattr(thinker.score.expected, "PRUNED", PRUNED)
    ((_, small),) = AnswerTree(toy).followed(rollout, ["request"], 50)
    assert small.num_forwarded < expected.num_forwarded and small.kept <= expected.kept
    shorter = sum(score * share for score, share in small.distribution)
    assert abs(shorter - mean) <= 4 * (1 - small.kept / expected.kept) + 1e-6


# the scorer's mode


def test_mode_expected_gives_the_mean_and_the_greedy_text(monkeypatch):
    monkeypatch.setattr(
        thinker.score.scorer, "MIN_KEPT", 1e-3
    )  # signs that are alike at every place keep little
    policy = likely_numbers("internvl3")
    clips = [random_clip(policy, 1), random_clip(policy, 2)]
    scorer = QualityScorer(policy, ScriptedTexts(policy, [TEXT]), mode="expected")
    rows = scorer.score_clips(clips)
    for clip, row in zip(clips, rows, strict=True):
        assert (row.status, row.mode, row.reasoning) == ("ok", "expected", "It is blur.")
        assert 1e-3 <= row.kept_mass <= 1 and sum(p for _, p in row.distribution) == pytest.approx(
            1
        )
        assert row.num_tree_tokens >= 1
        mean = sum(score * p for score, p in row.distribution)
        assert row.score == row.answer == pytest.approx(mean) and row.spread > 0
        (alone,) = scorer.score_clips([clip])
        assert alone.score == pytest.approx(row.score, abs=1e-4)


def test_the_greedy_answer_stands_where_little_is_kept_and_an_invalid_one_stays_invalid():
    policy = engine_policy("internvl3", amplify=1.5)  # of which no number is likely
    for text, status, score in ((TEXT, "ok", 2.5), ("no idea", "invalid_answer", None)):
        scorer = QualityScorer(policy, ScriptedTexts(policy, [text]), mode="expected")
        (row,) = scorer.score_clips([random_clip(policy, 1)])
        assert (row.status, row.score, row.kept_mass) == (status, score, None)
    with pytest.raises(ValueError, match="mode expected is for the task score, not for 'choice'"):
        check_mode("expected", "choice")


def test_what_can_follow_is_what_the_parser_reads():
    good = ("5.00</", " 3 <", "03.5", "3.</", "")
    assert [can_follow(text) for text in good] == [True, True, True, False, True]
    bad = ("6", "5.5</", "0</", "3,", "3 .", "<", "..", "-1", "a", "3.5</b")
    assert not any(can_follow(text) for text in bad)
    assert math.isclose(PRUNED, 0.01)
