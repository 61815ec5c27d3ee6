"""The client of chat endpoints, against a real server on the loopback."""

import socket
import time

import pytest

from tests.helpers.chat_server import chat_server
from thinker.utils.chat_client import CallCapError, ChatClient, ChatError

ASKED = [{"role": "user", "content": "Is it sharp?"}]


def test_an_answer_comes_back_and_is_counted(monkeypatch):
    monkeypatch.setenv("MY_KEY", " secret\n")
    with chat_server(lambda body: "Yes, it is.") as server:
        client = ChatClient(server.url, "judge", api_key_env="MY_KEY")
        assert client.ask(ASKED, temperature=0.5, max_tokens=20) == "Yes, it is."
    assert server.requests == [
        {"model": "judge", "messages": ASKED, "temperature": 0.5, "max_tokens": 20}
    ]
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert (client.num_calls, client.num_tokens) == (1, 10)


def test_what_fails_in_passing_is_tried_again_and_counts():
    states = [(503, {}, b"busy"), (429, {"Retry-After": "0"}, b""), "at last"]
    with chat_server(lambda body: states.pop(0)) as server:
        client = ChatClient(server.url, "judge", wait_seconds=0.01)
        assert client.ask(ASKED) == "at last"
    assert client.num_calls == 3


def test_a_call_that_stays_without_answer_names_url_and_reason():
    with chat_server(lambda body: (500, {}, b"out of memory")) as server:
        client = ChatClient(server.url, "judge", retries=1, wait_seconds=0)
        with pytest.raises(ChatError, match=r"chat/completions: status 500: 'out of.*\(2 tries\)"):
            client.ask(ASKED)


@pytest.mark.parametrize(
    "response",
    [
        (404, {}, b"no such model"),
        (302, {"Location": "http://127.0.0.1:9/elsewhere"}, b""),
        (200, {}, b"<html>hello</html>"),
        (200, {}, b'{"choices": []}'),
        (200, {}, b'{"choices": [{"message": {"content": null}}]}'),
    ],
)
def test_an_error_that_no_try_mends_is_not_tried_again(response):
    with chat_server(lambda body: response) as server:
        client = ChatClient(server.url, "judge", wait_seconds=0)
        with pytest.raises(ChatError, match=r"status|no chat completion"):
            client.ask(ASKED)
    assert len(server.requests) == 1


def test_the_cap_holds_for_tries_too():
    with chat_server(lambda body: (503, {}, b"")) as server:
        client = ChatClient(server.url, "judge", max_calls=2, wait_seconds=0)
        with pytest.raises(CallCapError, match="the 2 calls"):
            client.ask(ASKED)
    assert len(server.requests) == 2


def test_a_server_that_is_silent_or_not_there_is_a_chat_error():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        client = ChatClient(url, "judge", timeout=0.2, retries=0)
        started = time.monotonic()
        with pytest.raises(ChatError, match=r"no answer within 0\.2 s \(1 try\)"):
            client.ask(ASKED)
        assert time.monotonic() - started < 5
    with pytest.raises(ChatError, match="cannot be reached"):
        client.ask(ASKED)


@pytest.mark.parametrize(
    ("url", "settings", "message"),
    [
        ("127.0.0.1:8000/v1", {}, "expected http://"),
        ("file:///etc/passwd", {}, "expected http://"),
        ("http://me:secret@127.0.0.1/v1", {}, "without user"),
        ("http://127.0.0.1/v1", {"timeout": 0}, "timeout is 0"),
        ("http://127.0.0.1/v1", {"timeout": float("nan")}, "timeout is nan"),
        ("http://127.0.0.1/v1", {"timeout": float("inf")}, "timeout is inf"),
        ("http://127.0.0.1/v1", {"max_calls": 0}, "max_calls is 0"),
        ("http://127.0.0.1/v1", {"api_key_env": "NOT_SET_HERE"}, "NOT_SET_HERE is not set"),
    ],
)
def test_settings_are_checked_before_any_call(url, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        ChatClient(url, "judge", **settings)
    assert "secret" not in str(caught.value)
