"""`thinker plan`."""

import pytest

from thinker.cli.main import main

RUN = ["plan", "--model", "InternVL3-1B", "--gpus", "16", "--nodes", "2", "--frames", "6"]


def test_a_plan_of_training_and_scoring(capsys, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("gpus: {H100-SXM: {dollars_per_hour: 7}}")
    command = ["--videos", "28056", "--score", "1000000000", "--show-rates", "--rates", str(own)]
    assert main([*RUN, *command]) == 0
    text = capsys.readouterr().out
    for part in (
        "InternVL3-1B, all but SlowFast trained, fsdp2: 16 H100-SXM in 2 node(s)",
        "training forward and backward",
        "rollouts: completions",
        "the longest completions",
        "spent on: ",
        "GB on a GPU that trains, 72 can be filled",
        "1,314 steps",  # 28,056 videos, 64 a step: 438, three epochs; TRL drops the rest
        "scoring 1,000,000,000 videos, mode level, 16 GPUs",
        "binds (",
        f" 7  given in {own}",
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([], "nothing to plan: give --videos (training), --score (an archive), or both"),
        (["--videos", "9", "--gpus", "15"], "--gpus is 15 and --nodes 2, expected at least one of"),
        (["--videos", "0"], "--videos is 0, expected at least 1"),
        (["--videos", "99", "--server-gpus", "16"], "--server-gpus is 16, expected 0 to 15"),
        (["--videos", "99", "--spread", "nan"], "the spread of lengths is nan, expected 0"),
        (["--videos", "99", "--longest", "100"], "has 100 tokens, expected no less than the mean"),
        (["--videos", "9"], "a step takes 64 videos (16 processes with 4 each), the set has 9"),
        (["--videos", "99", "--model", "InternVL3-80B"], "no public configuration 'InternVL3-80B'"),
        (["--videos", "99", "--sharding", "zero1"], "sharding is 'zero1', expected one of"),
        (["--videos", "99", "--gpu", "H1000"], "no rates of a GPU 'H1000'; known: H100-SXM"),
        (["--score", "0"], "--score is 0, expected at least 1"),
        (
            ["--videos", "99", "--model", "InternVL3-8B", "--sharding", "ddp"],
            "it would fit with --sharding zero2; or --sharding zero3; or --sharding fsdp2",
        ),
    ],
)
def test_mistakes_are_told_in_one_sentence(capsys, command, message):
    assert main([*RUN, *command]) == 2
    assert message in capsys.readouterr().err
