"""Benchmarks of the trainer on a GPU: `python -m tests.benchmarks.bench_trainer --device cuda:0`.

ResNet34 with the small stem on 48x48 greys in bf16: each way to launch steps beside loops after
torchvision's references/classification/train.py and timm's train.py with the same child and the
same data on the device, the share of the measured matrix rate, memory, and stacked children.
"""

from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.bare import BareLoop, seconds
from tests.benchmarks.children import Many, grey_images, spec_of, steps_of
from tests.benchmarks.results import Claim, Figures
from trainer_service.training.loop import ChildTraining
from trainer_service.training.spec import Execution, Precision

STEPS = 100
CHILDREN = 8
MATRIX = 8192
"""Rows and columns of the product that the matrix rate is measured by."""


class PublishedLoop(BareLoop):
    """The bare loop with what published training loops do in each step beside training."""

    def torchvision(self, steps: int) -> None:
        """Two accuracies and the loss are read off the device in each step."""
        for _ in range(steps):
            loss, logits, labels = self._step()
            top = logits.topk(5, dim=1).indices == labels[:, None]
            float(loss), float(top[:, :1].float().sum()), float(top.float().sum())

    def timm(self, steps: int) -> None:
        """The loss is read off the device in each step."""
        for _ in range(steps):
            loss, _logits, _labels = self._step()
            float(loss)

    def _step(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        places = torch.randint(len(self.labels), (self.batch,), device=self.device)
        labels, logits = self.labels[places], self.logits(places)
        loss = nn.functional.cross_entropy(logits, labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach(), logits.detach(), labels


class OnCuda:
    """All measures of a GPU; children are made once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        images = grey_images()
        spec = spec_of(precision=Precision.BF16, chunk_size=STEPS)
        self._published = PublishedLoop(spec, images, device)
        self._published.child.train()
        self._ours = {
            execution: ChildTraining(
                spec_of(precision=Precision.BF16, chunk_size=STEPS, execution=execution),
                images,
                device,
            )
            for execution in Execution
        }
        self._many = {
            execution: Many(
                spec_of(precision=Precision.BF16, chunk_size=STEPS, execution=execution),
                images,
                device,
                CHILDREN,
            )
            for execution in (Execution.EAGER, Execution.GRAPHS)
        }
        for child in self._ours.values():
            steps_of([child], 5)
        self._images = STEPS * spec.batch_size

    async def measure(self, _folder: Path) -> Figures:
        loops = {
            "bare": self._published.train,
            "torchvision": self._published.torchvision,
            "timm": self._published.timm,
        }
        figures = {"matrix_gflop_per_s": self._matrix_rate()}
        for name, loop in loops.items():
            loop(5)
            taken = seconds(lambda loop=loop: loop(STEPS), self._device)
            figures[f"{name}_per_s"] = self._images / taken
        for execution, child in self._ours.items():
            taken = seconds(lambda child=child: steps_of([child], STEPS), self._device)
            figures[f"{execution}_per_s"] = self._images / taken
        for execution, many in self._many.items():
            figures |= many.measure(f"{execution}_{CHILDREN}")
        best = max(figures[f"{execution}_per_s"] for execution in Execution)
        figures["gflop_per_s"] = best * self._gflops_an_image()
        return figures

    def _matrix_rate(self) -> float:
        """Return how many 10^9 operations a second a large product in bf16 makes."""
        one = torch.randn(MATRIX, MATRIX, device=self._device, dtype=torch.bfloat16)
        one @ one
        taken = seconds(lambda: [one @ one for _ in range(20)], self._device)
        return 20 * 2 * MATRIX**3 / taken / 1e9

    def _gflops_an_image(self) -> float:
        """Return the operations of a training step for one image, in 10^9."""
        with FlopCounterMode(display=False) as counter:
            self._published.train(1)
        return float(counter.get_total_flops()) / self._published.batch / 1e9


def claims(f: Figures) -> list[Claim]:
    best = max(f[f"{execution}_per_s"] for execution in Execution)
    stacked = max(f[f"{way}_{CHILDREN}_stacked_per_s"] for way in ("eager", "graphs"))
    return [
        Claim(
            "eager: images a second to the bare loop's",
            f["eager_per_s"] / f["bare_per_s"],
            least=0.98,
        ),
        Claim("best to torchvision's loop", best / f["torchvision_per_s"], least=1),
        Claim("best to timm's loop", best / f["timm_per_s"], least=1),
        Claim("share of the matrix rate", f["gflop_per_s"] / f["matrix_gflop_per_s"], least=0),
        Claim("8 stacked to one", stacked / f["eager_per_s"], least=4),
    ]
