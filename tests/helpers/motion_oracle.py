"""SlowFast a second time: weights of a sensible scale, and a forward on the bare state dict."""

import torch
import torch.nn.functional as F
from torch import nn


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Weights of a sensible scale, and BatchNorms that are far from the identity."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.Conv3d):
            fan_in = part.weight[0].numel()
            part.weight.data.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
        elif isinstance(part, nn.BatchNorm3d):
            part.weight.data.uniform_(0.5, 1.5, generator=generator)
            part.bias.data.normal_(0, 0.2, generator=generator)
            part.running_mean.normal_(0, 0.3, generator=generator)
            part.running_var.uniform_(0.5, 2.0, generator=generator)
        elif isinstance(part, nn.Linear | nn.LayerNorm | nn.Embedding):
            for parameter in part.parameters():
                parameter.data.normal_(0, 0.3, generator=generator)


def oracle(state, slow, fast, depths):
    def norm(x, name):
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=1e-5)

    def conv(x, name, stride, padding):
        return F.conv3d(x, state[f"{name}.weight"], stride=stride, padding=padding)

    def fuse(slow, fast, i):
        name = f"blocks.{i}.multipathway_fusion"
        x = conv(fast, f"{name}.conv_fast_to_slow", (4, 1, 1), (3, 0, 0))
        return torch.cat([slow, F.relu(norm(x, f"{name}.norm"))], 1)

    x = [slow, fast]
    for p, temporal in ((0, 1), (1, 5)):
        name = f"blocks.0.multipathway_blocks.{p}"
        x[p] = conv(x[p], f"{name}.conv", (1, 2, 2), (temporal // 2, 3, 3))
        x[p] = F.max_pool3d(F.relu(norm(x[p], f"{name}.norm")), (1, 3, 3), (1, 2, 2), (0, 1, 1))
    x[0] = fuse(*x, 0)
    for i in (1, 2, 3, 4):
        for p in (0, 1):
            temporal = 3 if p == 1 or i >= 3 else 1
            for j in range(depths[i - 1]):
                stride = (1, 2, 2) if i > 1 and j == 0 else (1, 1, 1)
                block = f"blocks.{i}.multipathway_blocks.{p}.res_blocks.{j}"
                y = conv(x[p], f"{block}.branch2.conv_a", (1, 1, 1), (temporal // 2, 0, 0))
                y = F.relu(norm(y, f"{block}.branch2.norm_a"))
                y = conv(y, f"{block}.branch2.conv_b", stride, (0, 1, 1))
                y = F.relu(norm(y, f"{block}.branch2.norm_b"))
                y = norm(
                    conv(y, f"{block}.branch2.conv_c", (1, 1, 1), 0), f"{block}.branch2.norm_c"
                )
                shortcut = x[p]
                if j == 0:
                    shortcut = conv(x[p], f"{block}.branch1_conv", stride, 0)
                    shortcut = norm(shortcut, f"{block}.branch1_norm")
                x[p] = F.relu(shortcut + y)
        if i < 4:
            x[0] = fuse(*x, i)
    return x
