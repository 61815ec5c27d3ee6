"""Score one video with its reasoning: python single_infer.py --model DIR --video FILE."""

import sys

from thinker.cli import score
from thinker.cli.main import run_alone

if __name__ == "__main__":
    sys.exit(run_alone(score, __doc__))
