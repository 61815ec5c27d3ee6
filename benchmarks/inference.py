"""Throughput of scoring against a loop in the reference's style, side by side in one run.

    python benchmarks/inference.py --output benchmarks/inference.json

Decoding processes import the main script, as everywhere with `multiprocessing`: so this one is
light, like the `thinker` command, and what is measured lies in `inference_sides.py`.
"""

import argparse
import json
import tempfile
from pathlib import Path


def main() -> None:
    from inference_sides import measure

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--num-videos", type=int, default=12)
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON record")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        record = measure(args, Path(folder))
    text = json.dumps(record, indent=1)
    print(text)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
