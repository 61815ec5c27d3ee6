"""The app: one policy in a browser, for several users at once.

`session.py` is what one user has and does, without a browser; `shown.py` turns it into HTML,
`page.py` is the page (Gradio), `serve.py` the server on loopback, `examples.py` the media to
begin with.
Only `page.py` and `serve.py` import Gradio, which the extra `app` brings.
"""
