"""Qwen's vision-language models with a motion branch, one file each; `family.py` is what they
share."""
