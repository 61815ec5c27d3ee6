"""Records in an endpoint's words, against a real server on the loopback."""

import json

import pytest

from tests.helpers.builder_sets import LABELS, plan, write_media
from tests.helpers.chat_server import chat_server
from thinker.cli.main import main
from thinker.data.builders.build import build_records
from thinker.data.builders.draft import Asked
from thinker.data.builders.rewrite import check_rewriting, rewrite
from thinker.utils.chat_client import ChatClient


def given(body: dict) -> tuple[str, str]:
    """Question and answer in the prompt."""
    prompt = body["messages"][0]["content"]
    _, _, rest = prompt.rpartition("\n\nQuestion: ")
    question, _, answer = rest.rpartition("\nAnswer: ")
    return question, answer


def honest(body: dict) -> str:
    question, answer = given(body)
    return "Sure:\n" + json.dumps({"question": f"Tell me: {question}", "answer": answer})


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("What harms it?", "Severe noise is what harms it.", None),
        ("What harms it?", "It is noise.", "lost 'severe'"),
        ("What harms it?", "It is severe noise and blur.", "gained 'blur'"),
        ("What harms it?", "It is severe noise from 3 seconds on.", "gained '3'"),
        ("Does noise harm it?", "It is severe noise.", "question has gained 'noise'"),
        ("What harms it?", "It is severe noise, not motion blur.", "gained"),
        ("Is it good?", "It is severe noise.", "question has gained 'good'"),
        ("<video> What harms it?", "It is severe noise.", "holds a tag"),
        ("What harms it?\nA. blur", "It is severe noise.", "list of options"),
        ("What harms it?", "It is severe noise. " * 20, "characters long"),
        ("What harms it?", "It is not severe noise.", "reference 'It is not severe noise.'"),
    ],
)
def test_what_is_taken_and_what_is_refused(question, answer, reason) -> None:
    old = Asked(question="What is it?", answer="It is severe noise.", keep=("severe", "noise"))
    new = Asked(question=question, answer=answer, keep=old.keep)
    if reason is None:
        check_rewriting(old, new, "distortion")
    else:
        with pytest.raises(ValueError, match=reason):
            check_rewriting(old, new, "distortion")


def test_the_level_and_the_letter_stay(tmp_path) -> None:
    """A choice is asked in other words, its letter and its options are the template's."""
    root = write_media(tmp_path)
    with chat_server(honest) as server:
        client = ChatClient(server.url, "m")
        for kind in ("multiple-choice", "causal", "conversation", "score"):
            template = build_records(plan(kind, root)).records

            def reword(drafts, kind=kind):
                return rewrite(drafts, client, tmp_path / f"{kind}.rewriting")

            built = build_records(plan(kind, root), reword)
            assert built.rewritten is not None and built.rewritten.refused == ()
            for old, new in zip(template, built.records, strict=True):
                pairs = zip(old["conversations"], new["conversations"], strict=True)
                for number, (before, after) in enumerate(pairs):
                    said = after["value"].replace("Tell me: ", "")
                    assert said == before["value"]
                    assert (said != after["value"]) == (number % 2 == 0)


def test_refused_turns_keep_the_templates_words_and_are_counted(tmp_path) -> None:
    root = write_media(tmp_path)

    def liar(body: dict) -> str:
        _, answer = given(body)
        if "frame drops" in answer:
            return "I would rather not."
        answer = answer.replace("noise", "blur")
        return json.dumps({"question": "What is the matter with it?", "answer": answer})

    with chat_server(liar) as server:
        client = ChatClient(server.url, "m")
        built = build_records(
            plan("distortion", root), lambda drafts: rewrite(drafts, client, tmp_path / "r")
        )
    assert built.rewritten is not None and built.rewritten.num_taken == 2  # none, and blur
    assert sorted(built.rewritten.refused) == [
        "it is no JSON object with a question and an answer",
        "the answer has lost 'noise'",
        "the answer has lost 'noise'",
    ]
    template = build_records(plan("distortion", root)).records
    assert [a == b for a, b in zip(built.records, template, strict=True)] == [
        False, True, True, True, False,
    ]  # fmt: skip


def test_a_run_that_was_stopped_goes_on_and_pays_nothing_twice(tmp_path, capsys) -> None:
    root = write_media(tmp_path)
    labels = ["--mos", str(LABELS / "mos.json"), "--scale", "0:100", "--form", "short"]
    words = ["--media-root", str(root), "--output", str(tmp_path / "out.jsonl")]
    with chat_server(honest) as server:
        endpoint = ["--endpoint", server.url, "--endpoint-model", "m"]
        asked = ["records", "ugc", *labels, *words, *endpoint]
        assert main([*asked, "--max-calls", "3"]) == 2
        told = capsys.readouterr().err
        assert "the 3 calls that were allowed" in told and "3 of 5 turns are done" in told
        assert not (tmp_path / "out.jsonl").exists()
        assert main([*asked, "--max-calls", "3"]) == 0
        assert "5 turns rewritten, 0 refused" in capsys.readouterr().out
        assert len(server.requests) == 5
        assert len({given(body) for body in server.requests}) >= 4
        (tmp_path / "out.jsonl").unlink()
        assert main(["records", "ugc", *labels, "--seed", "1", *words, *endpoint]) == 2
        assert "holds results of another model or configuration" in capsys.readouterr().err


def test_an_endpoint_that_is_not_there_is_an_error_with_its_url(tmp_path) -> None:
    root = write_media(tmp_path)
    with chat_server(honest) as server:
        url = server.url
    client = ChatClient(url, "m", retries=0)
    with pytest.raises(ValueError, match=r"/v1/chat/completions: cannot be reached"):
        build_records(plan("ugc", root), lambda drafts: rewrite(drafts, client, tmp_path / "r"))
