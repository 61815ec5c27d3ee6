"""`python -m thinker.cli` is the `thinker` command."""

import sys

from thinker.cli.main import main

sys.exit(main())
