"""Stalls: where a video stands still while it plays. `intervals.py` says what is known of a file,
`detect.py` finds them."""
