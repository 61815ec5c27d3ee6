"""Score annotated sets to one CSV each:
python batch_infer.py --model DIR --meta FILE… --video-root DIR… --output-dir DIR."""

import sys

from thinker.cli.evaluation import eval
from thinker.cli.main import run_alone

if __name__ == "__main__":
    sys.exit(run_alone(eval, __doc__))
