"""Dynamic noise injection: noise inside BN+ReLU units, with strengths trained by the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_service.domain.errors import invalid
from agent_service.domain.hyperparameters import Hyperparameter
from trainer_service.training.regularizers.noise import GaussianNoise

if TYPE_CHECKING:
    from trainer_service.training.regularizers.installed import Regularization


class DynamicNoise(GaussianNoise):
    """DNI's unit: relu(x + alpha e), e ~ N(0, 1) anew in each training pass, x = bn(...).

    This is our reading of [13], of which only this is known here: feature-level noise inside the
    BN+ReLU unit, whose strength follows the training loss's gradient together with the weights
    (Eq. 1). A unit stands in the place of a ReLU, so that the noise comes between the two.
    """

    name = "dni"
    fixed, steered = "DNI", ""
    strength = Hyperparameter(name="noise-strength", low=0.0, high=10.0)
    default = 0.25
    is_trained = True
    sites = ()

    def install(self, regularization: Regularization) -> None:
        """Replace each ReLU that directly follows a batch norm by a unit.

        A residual block's last ReLU follows the addition of the shortcut, not a batch norm, so it
        is no BN+ReLU unit and stays as it is, though the block may call one module for all of its
        ReLUs.

        Raises:
            InvalidArgument: the child has no such ReLU.
        """
        from torch import nn  # here, since a spec is checked without torch

        modules = dict(regularization.child.named_modules())
        calls = [c for c in regularization.calls if isinstance(modules[c.name], nn.ReLU)]
        if not any(call.follows_norm for call in calls):
            text = (
                "the model has no batch norm that a ReLU follows, which dni needs; take cnn or a "
                "ResNet, or another method"
            )
            raise invalid("method", text)
        units: dict[str, list[nn.Module]] = {call.name: [] for call in calls}
        for call in calls:
            relu = nn.ReLU()
            is_unit = call.follows_norm
            unit = regularization.make_site(call.shape, before=relu) if is_unit else relu
            units[call.name].append(unit)
        for name, by_call in units.items():
            regularization.replace(name, by_call)
