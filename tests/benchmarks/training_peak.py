"""Trains some steps in a process of its own and prints its peak memory in MiB: ours or bare.

On CPU the resident high-water mark, on CUDA what torch allocated at most.
"""

import sys
from pathlib import Path

import torch

from tests.benchmarks.bare import BareLoop
from tests.benchmarks.children import grey_images, spec_of
from trainer_service.training.loop import ChildTraining

STEPS = 3


def main(kind: str, name: str, width: float) -> None:
    device = torch.device(name)
    spec = spec_of(width=width, chunk_size=STEPS, validation_batches=STEPS)
    images = grey_images()
    if kind == "bare":
        bare = BareLoop(spec, images, device)
        bare.train(STEPS)
        bare.evaluate(spec.validation_batches)
    else:
        ChildTraining(spec, images, device).train_chunk({"dropout": 0.2})
    if device.type == "cuda":
        print(torch.cuda.max_memory_allocated(device) / 2**20)
        return
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            print(int(line.split()[1]) / 1024)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
