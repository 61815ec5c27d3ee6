"""Policies: native vision-language models with a motion branch, and how to load, save and feed
them."""

from thinker.policies.policy import (
    BACKBONES,
    DEFAULT_CLIP,
    Backbone,
    Policy,
    backbone_name,
    load_policy,
    plain_config,
    register,
)

__all__ = [
    "BACKBONES",
    "DEFAULT_CLIP",
    "Backbone",
    "Policy",
    "backbone_name",
    "load_policy",
    "plain_config",
    "register",
]
