"""The server of the app: on loopback unless another host is named; it calls nobody, and the pages
that it serves load nothing from elsewhere.

In: a loaded scorer. Out: an address, until `stop` is called or the `with` ends; then no file of a
session is left.
"""

import os
import shutil
import socket
import tempfile
from pathlib import Path
from types import TracebackType

# Both are read when Gradio is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from thinker.app.examples import Examples
from thinker.app.page import CSS, Page
from thinker.app.session import AppLimits, Assistant
from thinker.score.scorer import QualityScorer
from thinker.video.read_ahead import Reading

MAX_WAITING = 64
"""Events of all users that may wait; more are refused by a message."""
AT_ONCE = 8
"""Events that run at once. They take turns at the policy, token by token."""
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'; "
    "form-action 'self'; base-uri 'self'"
)
"""Content-Security-Policy: a browser loads nothing from another host, whatever Gradio's page or an
answer of the policy says."""


class SafeHeaders:
    """Adds headers to every answer."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", []),
                    (b"content-security-policy", POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        await self._app(scope, receive, send_with_headers)


class AppServer:
    """Serves the app until it is stopped. Raises ValueError where the port is taken.

    port: 0 takes a free one. Example: `with AppServer(scorer) as app: print(app.url)`.
    """

    def __init__(
        self,
        scorer: QualityScorer,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        limits: AppLimits | None = None,
        reading: Reading | None = None,
    ):
        self._folder = Path(tempfile.mkdtemp(prefix="thinker-app-"))
        # Uploads arrive here, beside the sessions that take them over.
        os.environ["GRADIO_TEMP_DIR"] = str(self._folder / "uploads")
        sessions = self._folder / "sessions"
        self.assistant = Assistant(scorer, sessions, limits=limits, reading=reading)
        examples = Examples(self._folder / "examples", scorer.clip_spec)
        self._blocks = Page(self.assistant, examples).blocks
        self._blocks.queue(max_size=MAX_WAITING, default_concurrency_limit=AT_ONCE, api_open=False)
        try:
            self._blocks.launch(
                server_name=host,
                server_port=port or _free_port(host),
                share=False,
                inbrowser=False,
                quiet=True,
                prevent_thread_lock=True,
                show_error=False,
                max_threads=2 * AT_ONCE,
                max_file_size=self.assistant.limits.max_upload_mb * 10**6,
                allowed_paths=[str(sessions)],
                footer_links=[],
                run_history=False,  # it would keep answers in the browser
                enable_monitoring=False,
                ssr_mode=False,
                mcp_server=False,
                pwa=False,
                app_kwargs={"middleware": [Middleware(SafeHeaders)], "docs_url": None},
                theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
                css=CSS.read_text(encoding="utf-8"),
            )
        except OSError as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise ValueError(f"cannot listen on {host}, port {port}: {error}") from error
        self.url = self._blocks.local_url

    def stop(self) -> None:
        """End the server and delete all files."""
        self._blocks.close(verbose=False)
        self.assistant.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> "AppServer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]
