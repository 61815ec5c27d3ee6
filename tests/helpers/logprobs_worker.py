"""The comparisons of test_logprobs.py under torchrun, all in one launch."""

import faulthandler
import sys
from itertools import product
from pathlib import Path

import torch

from tests.helpers.exact_precision import use_exact_precision
from tests.helpers.logprobs_runs import LOSS_TYPES, Case, compare, save_start, with_frozen
from tests.helpers.policy_factory import BACKBONES


def main(folder: Path) -> None:
    faulthandler.dump_traceback_later(800, exit=True)  # a process that waits says where
    use_exact_precision(setattr)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    for backbone in BACKBONES if rank == 0 else ():
        save_start(backbone, folder / backbone)
    torch.distributed.barrier()
    cases = list(product(LOSS_TYPES, (0.0, 0.04)))
    for number, (loss_type, beta) in enumerate(cases):
        backbone = BACKBONES[(number + number // 2) % len(BACKBONES)]  # each beta meets each
        case = Case(backbone=backbone, loss_type=loss_type, beta=beta, accumulation=1)
        compare(with_frozen(case), folder / backbone, 1e-10)
    (folder / f"done{rank}").write_text(str(len(cases)), encoding="utf-8")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
