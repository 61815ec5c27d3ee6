"""One question to an OpenAI-compatible endpoint: messages go in, the text of the answer comes out.

`POST <base_url>/chat/completions`, as vLLM, llama.cpp and the hosted services speak it. What fails
in passing (no connection, a timeout, status 429 or 5xx) is tried again, a fixed number of times;
every try counts as a call, and no more than `max_calls` are made, whatever happens. Redirects are
not followed: they would carry the key elsewhere.
"""

import json
import os
import threading
import time
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

RETRIES = 2
"""Further tries of a call that failed in passing."""
WAIT_SECONDS = 1.0
"""Before the second try; twice as long before each further one."""
MAX_WAIT_SECONDS = 30.0
"""The longest that a `Retry-After` of the server is waited for."""
MAX_TIMEOUT = 86400.0
"""A day; what is much longer overflows the clocks of the system."""
MAX_ANSWER_BYTES = 8 << 20
"""A longer answer is no chat completion."""
_SHOWN = 300  # characters of what a server said, in an error


class ChatError(Exception):
    """A call without an answer: names the URL and the reason, never the key."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url}: {reason}")
        self.url = url
        self.reason = reason


class CallCapError(ChatError):
    """All calls that `max_calls` allows were made; none was sent now."""


class _PassingError(Exception):
    """What another try may mend."""

    def __init__(self, reason: str, wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        return None


class ChatClient:
    """An endpoint, a model of it, and how many calls it may be sent. Threads may share one."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str | None = None,
        timeout: float = 60.0,
        max_calls: int | None = None,
        retries: int = RETRIES,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        """base_url: up to and with `/v1`, such as "http://127.0.0.1:8000/v1". api_key_env: the name
        of the environment variable that holds the key; None sends none. timeout: seconds that one
        try may take. max_calls: tries in all, None is any number. Raises ValueError for a URL that
        is none, a variable that is not set, and numbers out of range.
        """
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"endpoint {base_url!r}: expected http://HOST:PORT/v1 or https://HOST/v1"
            )
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError(
                f"endpoint {parts.scheme}://{parts.hostname}…: expected a URL without user, query "
                "or fragment; name the variable that holds the key"
            )
        if not model:
            raise ValueError("the endpoint's model has no name; give the one that it serves")
        if not 0 < timeout <= MAX_TIMEOUT:
            raise ValueError(
                f"timeout is {timeout!r}, expected seconds, above 0 and at most {MAX_TIMEOUT:g}"
            )
        if max_calls is not None and max_calls < 1:
            raise ValueError(f"max_calls is {max_calls!r}, expected at least 1")
        if retries < 0:
            raise ValueError(f"retries is {retries!r}, expected 0 or more")
        self.url = f"{base_url.rstrip('/')}/chat/completions"
        self.model = model
        self.timeout = timeout
        self.max_calls = max_calls
        self.retries = retries
        self.wait_seconds = wait_seconds
        self.num_calls = 0
        """Tries that were sent so far."""
        self.num_tokens = 0
        """Of prompts and answers, as the server counts them; 0 where it does not."""
        self._key = None if api_key_env is None else _key(api_key_env)
        self._lock = threading.Lock()
        handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
        if parts.hostname in ("127.0.0.1", "::1", "localhost"):
            handlers.append(urllib.request.ProxyHandler({}))  # a proxy cannot reach our loopback
        self._opener = urllib.request.build_opener(*handlers)

    def ask(
        self,
        messages: list[dict[str, Any]],
        *,
        temperature: float = 0.0,
        max_tokens: int = 1024,
    ) -> str:
        """The text of the answer, as the server gives it.

        messages: `{"role": "user", "content": …}` and so on. Raises ChatError where there is no
        answer, CallCapError where none may be asked for.
        """
        body = json.dumps(
            {
                "model": self.model,
                "messages": messages,
                "temperature": temperature,
                "max_tokens": max_tokens,
            }
        ).encode()
        wait, reason = self.wait_seconds, ""
        for number in range(self.retries + 1):
            self._count_call()
            try:
                return self._content(self._post(body))
            except _PassingError as error:
                reason = str(error)
                pause = wait if error.wait_seconds is None else error.wait_seconds
            if number < self.retries:
                time.sleep(min(pause, MAX_WAIT_SECONDS))
                wait *= 2
        tries = "1 try" if self.retries == 0 else f"{self.retries + 1} tries"
        raise ChatError(self.url, f"{reason} ({tries})")

    def _count_call(self) -> None:
        with self._lock:
            if self.max_calls is not None and self.num_calls >= self.max_calls:
                raise CallCapError(
                    self.url, f"the {self.max_calls} calls that were allowed have been made"
                )
            self.num_calls += 1

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.url, data=body, headers=headers)
        deadline = time.monotonic() + self.timeout
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                return _read(response, deadline)
        except urllib.error.HTTPError as error:
            with error:
                said = _said(error.read(_SHOWN * 4))
            if error.code == 429 or error.code >= 500:
                seconds = _retry_after(error.headers.get("Retry-After"))
                raise _PassingError(f"status {error.code}{said}", seconds) from None
            raise ChatError(self.url, f"status {error.code}{said}") from None
        except TimeoutError:
            raise _PassingError(f"no answer within {self.timeout:g} s") from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise _PassingError(f"no answer within {self.timeout:g} s") from None
            raise _PassingError(f"cannot be reached: {error.reason}") from None
        except (OSError, HTTPException) as error:
            raise _PassingError(f"the connection broke: {error!r}") from None

    def _content(self, raw: bytes) -> str:
        """The text in a chat completion."""
        try:
            answer = json.loads(raw)
            content = answer["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            content = None
        if not isinstance(content, str):
            raise ChatError(self.url, f"the answer is no chat completion{_said(raw)}")
        usage = answer.get("usage")
        tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
        if isinstance(tokens, int):
            with self._lock:
                self.num_tokens += tokens
        return content


def _key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(f"the variable {variable} is not set; it has to hold the endpoint's key")
    if not (key.isascii() and key.isprintable()):
        raise ValueError(f"the variable {variable} holds no key: expected printable ASCII")
    return key


def _read(response: HTTPResponse, deadline: float) -> bytes:
    """The body; a server that sends it drop by drop keeps to the deadline, too."""
    data = b""
    while chunk := response.read1(1 << 16):
        data += chunk
        if time.monotonic() > deadline:
            raise TimeoutError
        if len(data) > MAX_ANSWER_BYTES:
            raise _PassingError(f"the answer is longer than {MAX_ANSWER_BYTES >> 20} MiB")
    return data


def _said(raw: bytes) -> str:
    text = raw.decode(errors="replace").strip()
    return f": {text[:_SHOWN]!r}" if text else ""


def _retry_after(value: str | None) -> float | None:
    """Seconds; None where the server names none (it may name a date instead)."""
    try:
        return max(float(value), 0.0) if value is not None else None
    except ValueError:
        return None
