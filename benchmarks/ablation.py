"""Conditions compared over seeds: training runs, paired, with intervals on one page.

    python benchmarks/ablation.py PLAN.yaml --output-dir runs/ablation --jobs 2

The plan's keys stand in `paired/plan.py`. The same command continues what was killed, and does not
run again what is finished. Exit status 1: a run failed; the page says which.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from paired.page import write_page
from paired.plan import load_plan
from paired.runs import finish_all

from thinker.utils.journal import claimed_folder
from thinker.utils.lock import folder_lock


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("plan", type=Path, help="what is compared (YAML)")
    parser.add_argument("--output-dir", type=Path, required=True, help="runs and page go here")
    parser.add_argument("--jobs", type=int, default=1, help="how many runs at a time")
    args = parser.parse_args(arguments)
    try:
        plan = load_plan(args.plan)
        plan.check_data()
        with folder_lock(args.output_dir):
            runs = args.output_dir / "runs"
            with claimed_folder(args.output_dir, plan.identity(), runs.exists):
                pass
            results = finish_all(plan, args.output_dir, args.jobs, partial(print, flush=True))
            print(write_page(plan, results, args.output_dir))
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(f"written to {args.output_dir / 'ablation.html'}")
    return int(any(isinstance(result, str) for result in results.values()))


if __name__ == "__main__":
    raise SystemExit(main())
