"""A rollout back end for the scorer that writes given texts."""

import torch

from thinker.rollout.base import Completion


def gpu_exhausted():
    raise torch.OutOfMemoryError("tried to allocate 1 GiB\nlong report")


class ScriptedTexts:
    """A rollout back end that writes given texts; request i of a call gets texts i, i + 1, ….

    max_rows: with more requests at once it runs out of memory, in the way that `exhaust` does.
    """

    name = "scripted"
    exhaust = staticmethod(gpu_exhausted)

    def __init__(self, policy, texts, max_rows=None):
        self.tokenizer, self.texts, self.max_rows = policy.tokenizer, texts, max_rows
        self.batches = []

    def sync(self, step):
        pass

    def generate(self, requests, num_generations, sampling, seed):
        self.batches.append(len(requests))
        if self.max_rows is not None and len(requests) > self.max_rows:
            self.exhaust()
        texts = (self.texts * num_generations)[:num_generations]
        ids = [self.tokenizer(text)["input_ids"] for text in texts]
        return [[Completion(token_ids=row) for row in ids] for _ in requests]
