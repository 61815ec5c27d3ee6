"""Thinker inside of other people's tools (docs/peers.md): lmms-eval (`lmms_eval/`), and code that
calls metrics as pyiqa has them (`metric.py`).

Neither tool is a dependency. Nothing of lmms-eval is imported until it loads `lmms_eval/model.py`
itself; nothing of pyiqa is imported at all.
"""
