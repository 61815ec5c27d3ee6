"""Score annotated sets to one CSV each:
python batch_infer.py --model DIR --meta FILE… --video-root DIR… --output-dir DIR."""

import argparse
import sys

from thinker.cli.main import run_command
from thinker.cli.scoring import eval_parser

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    eval_parser(parser)
    sys.exit(run_command(parser.parse_args()))
