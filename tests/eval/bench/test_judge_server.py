"""The judge as a real model behind a real server: a tiny one that this test trains, in vLLM."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from importlib.util import find_spec

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from tests.helpers.launch import free_port
from thinker.eval.bench.judge import GRADE, SYSTEM, Graded, Judge
from thinker.policies.tiny import TinySize, text_config, train_tokenizer
from thinker.utils.chat_client import ChatClient

ANSWERS = {"Crisp edges.": "Score: 2", "Rather soft.": "Score: 1", "A dog.": "well, dogs"}


def graded(answer, place=0):
    return Graded(
        place=place, question="How are the edges?", answer=answer, reference="They are crisp."
    )


def train_judge(folder):
    """Three prompts and what to say to each, learnt by heart: one of them is answered in prose."""
    torch.manual_seed(0)
    texts = (SYSTEM, GRADE, *ANSWERS, *ANSWERS.values(), "system How are the edges?")
    tokenizer = train_tokenizer(texts, special_tokens=("<image>",), named_tokens={})
    size = TinySize(width=64, layers=2, heads=2)
    model = Qwen2ForCausalLM(Qwen2Config(**text_config(size, tokenizer)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rows = []
    for answer, reply in ANSWERS.items():
        text = tokenizer.apply_chat_template(
            graded(answer).messages, tokenize=False, add_generation_prompt=True
        )
        prompt, said = tokenizer(text)["input_ids"], tokenizer(f"{reply}<|im_end|>")["input_ids"]
        rows.append((torch.tensor([prompt + said]), len(prompt)))
    for _ in range(300):
        losses = []
        for ids, length in rows:
            logits = model(input_ids=ids).logits[0, length - 1 : -1]
            losses.append(torch.nn.functional.cross_entropy(logits, ids[0, length:]))
        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 1e-3:
            break
    assert loss.item() < 0.01, loss.item()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture
def judge_url(tmp_path):
    """`vllm serve` of the trained judge, on the loopback."""
    train_judge(tmp_path / "judge_model")
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve"]
    command += [str(tmp_path / "judge_model"), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--served-model-name", "tiny-judge", "--dtype", "float32", "--enforce-eager"]
    command += ["--max-model-len", "2048", "--generation-config", "vllm"]
    log = tmp_path / "server.log"
    with open(log, "w") as file:
        process = subprocess.Popen(
            command,
            env=os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 400
        while True:
            assert process.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_a_trained_judge_behind_a_real_server_grades(judge_url, tmp_path):
    judge = Judge(ChatClient(judge_url, "tiny-judge", timeout=120.0))
    answers = [graded(answer, place) for place, answer in enumerate(ANSWERS)]
    made = judge.grade(tmp_path / "judge", "open", answers, lambda: None)
    assert [one.status for one in made] == ["judged", "judged", "no_verdict"]
    assert [one.score for one in made] == [2, 1, None]
    assert made[2].replies == ("well, dogs",) * 5 and made[2].num_invalid == 5
    assert judge.client.num_calls == 15
    with pytest.raises(ValueError, match=r"does not answer.*status 404"):  # no such model there
        Judge(ChatClient(judge_url, "another")).probe()
