"""float64 all the way: the places where transformers and TRL compute in float32 whatever they are
given, replaced by the same formulas in the dtype at hand. For tests that compare to 1e-10."""

import torch
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl
from transformers.models.qwen2_vl import modeling_qwen2_vl
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.models.qwen3_vl import modeling_qwen3_vl
from trl.trainer import utils as trl_utils

NORMS = (
    Qwen2RMSNorm,
    Qwen3RMSNorm,
    modeling_qwen2_vl.Qwen2VLRMSNorm,
    modeling_qwen2_5_vl.Qwen2_5_VLRMSNorm,
    modeling_qwen3_vl.Qwen3VLTextRMSNorm,
)


def rms_norm(self, hidden_states):
    variance = hidden_states.pow(2).mean(-1, keepdim=True)
    return self.weight * hidden_states * torch.rsqrt(variance + self.variance_epsilon)


def rotate_vision(q, k, cos, sin):
    cos, sin = cos.unsqueeze(-2).to(q.dtype), sin.unsqueeze(-2).to(q.dtype)
    turn = modeling_qwen2_5_vl.rotate_half
    return q * cos + turn(q) * sin, k * cos + turn(k) * sin


class DenseLogProbs:
    """The fused LM head's kernel, written out: log-probability of each label, and the entropy."""

    @staticmethod
    def apply(hidden, weight, bias, labels, temperature, chunk, softcap, scale, outputs):
        assert softcap is None and scale == 1.0
        logits = torch.nn.functional.linear(hidden, weight, bias) / temperature
        logps = logits.log_softmax(-1)
        entropy = -(logps.exp() * logps).sum(-1)
        return logps.gather(-1, labels.unsqueeze(-1)).squeeze(-1), entropy, None, None, None


def use_exact_precision(set_attribute) -> None:
    """set_attribute: `monkeypatch.setattr`, or `setattr` in a process of its own."""
    for norm in NORMS:
        set_attribute(norm, "forward", rms_norm)
    for module in (modeling_qwen2_vl, modeling_qwen2_5_vl, modeling_qwen3_vl):
        set_attribute(module, "apply_rotary_pos_emb_vision", rotate_vision)
    set_attribute(trl_utils, "_ChunkedLogProbFunction", DenseLogProbs)
