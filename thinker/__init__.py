"""Thinker: video quality assessment that reasons, trained by GRPO."""
