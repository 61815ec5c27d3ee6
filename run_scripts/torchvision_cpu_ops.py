"""Lets a CUDA-linked torchvision be imported next to a CPU build of torch.

The registry offers no CPU wheel of torchvision. Next to a CPU torch the C++ part of the CUDA wheel
does not load, and `import torchvision` dies with "operator torchvision::nms does not exist", which
also breaks transformers' processors, peft and vLLM. Only the schemas of two operators are missing
for the import; v2 transforms and resizing need no C++ at all (calling nms still raises).

setup.sh copies this file into site-packages, with a `.pth` line that imports it and calls
`install()`, where torch is a CPU build and the operators are missing. That line runs at every start
of the interpreter, so nothing here imports torch before torchvision itself is imported.
"""

import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_library = None  # torch.library.Library; its operators vanish when it is collected


def define_missing(torchvision_folder: Path) -> bool:
    """Defines the operator schemas if torchvision's own C++ part does not load; True if it did so.

    The C++ part is tried first because it defines the same operators: a torchvision that matches
    its torch, installed later, must keep its own.
    """
    global _library
    import torch

    for extension in torchvision_folder.glob("_C*.so"):
        try:
            torch.ops.load_library(str(extension))
            return False
        except OSError:
            pass
    if _library is None:
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in SCHEMAS:
            _library.define(schema)
    return True


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        define_missing(Path(self.path).parent)
        super().exec_module(module)


class TorchvisionFinder:
    """Finds torchvision where it is, and has the operators defined just before it is executed.

    Not in `find_spec`: `importlib.util.find_spec("torchvision")` is a common way to ask whether
    torchvision is there, also while torch itself is being imported.
    """

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != "torchvision":
            return None
        spec = PathFinder.find_spec(name)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """Puts the finder first, once."""
    if not any(isinstance(finder, TorchvisionFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, TorchvisionFinder())
