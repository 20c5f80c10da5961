"""Makes torchvision importable, wherever it is installed; import this before it, or what needs it.

Beside a CPU build of torch, torchvision's compiled operators do not load and its import fails, and
with it torchmetrics', Lightning's and that of transformers' Trainer: it registers shape functions
for operators that are not there. Declaring their schemas is enough for models, transforms and data
sets; only box operators, which nobody needs here, stay out.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch

try:
    if find_spec("torchvision"):
        import torchvision  # noqa: F401
except RuntimeError:
    # Kept for as long as the process lives: the declarations go with the library object.
    _library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for _name in ("nms", "qnms"):
        _schema = f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        _library.define(_schema)  # type: ignore[no-untyped-call]
