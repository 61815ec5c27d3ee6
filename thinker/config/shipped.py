"""Where the files that come with the package lie: data set YAMLs and published figures.

In a checkout it is `data_configs/` beside the package, where people look for it; a wheel carries a
copy inside the package.
"""

from pathlib import Path

_PACKAGE = Path(__file__).parent.parent
_INSIDE = _PACKAGE / "data_configs"
DATA_CONFIGS = _INSIDE if _INSIDE.is_dir() else _PACKAGE.parent / "data_configs"
