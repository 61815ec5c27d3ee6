"""Score one video with its reasoning: python single_infer.py --model DIR --video FILE."""

import argparse
import sys

from thinker.cli.main import run_command
from thinker.cli.scoring import score_parser

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    score_parser(parser)
    sys.exit(run_command(parser.parse_args()))
