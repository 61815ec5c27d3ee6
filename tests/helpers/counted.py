"""Counters on a policy's backbone."""

from thinker.train.counters import Counters


def watched(policy) -> Counters:
    counters = Counters()
    counters.watch(policy.model.model)
    return counters


def frames(counters: Counters, grad="no_grad") -> float:
    return counters.take()[f"frames/{grad}"]
