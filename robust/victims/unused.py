"""Parameters that a victim's forward pass never touches: a library's model brings some, for tasks that are not ours."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def freeze_unused(module: nn.Module, run: Callable[[], Tensor]) -> None:
    """Asks no gradient of the parameters on which the output of `run` does not depend.

    An optimiser that waits for them would stop with an error, and weight decay would shrink them for nothing.

    Args:
        module: Whose parameters these are; evaluated while this runs, and left in the mode it was in.
        run: A forward pass on any input.
    """
    was_training = module.training
    module.eval()
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        gradients = torch.autograd.grad(run().sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
    module.train(was_training)
