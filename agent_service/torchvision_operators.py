"""Makes torchvision importable, if it is installed; import this before it, or what imports it.

With a CPU build of torch, torchvision's compiled operators may not load. Its import then fails, as
it registers shape functions for missing operators, and so do imports of torchmetrics, Lightning and
transformers' Trainer. Declaring the operators' schemas is enough for models, transforms and data
sets; only box operators, which are not used here, stay unavailable.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch

try:
    if find_spec("torchvision"):
        import torchvision  # noqa: F401
except RuntimeError:
    # Kept alive, since the declarations are dropped with the library object.
    _library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for _name in ("nms", "qnms"):
        _schema = f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        _library.define(_schema)  # type: ignore[no-untyped-call]
