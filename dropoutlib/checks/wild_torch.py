"""The defects of `wild` that need PyTorch: a function without a mode, an unregistered layer, an export."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export
from torch.nn import functional as F

from dropoutlib.checks.wild import Defect

Array = npt.NDArray[Any]


class Attention(nn.Module):
    """Self-attention over the eight parts of each row; the rate goes to a function that knows no mode."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def rate(self) -> float:
        """Return the rate."""
        return self.p

    def forward(self, x: Tensor) -> Tensor:
        """Return x + attention(x)."""
        parts = x.unflatten(1, (8, -1))
        attend = F.scaled_dot_product_attention
        mixed = attend(parts, parts, parts, dropout_p=self.rate())
        return x + mixed.flatten(1)


class AttentionAfter(Attention):
    """The rate is 0 in evaluation."""

    def rate(self) -> float:
        """Return the rate of the present mode."""
        return self.p if self.training else 0.0


class Heads(nn.Module):
    """One dropout for each task, in a list."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.dropouts: Any = [nn.Dropout(p) for task in range(2)]

    def forward(self, x: Tensor) -> Tensor:
        """Return the first task's features."""
        return self.dropouts[0](x)  # type: ignore[no-any-return]


class HeadsAfter(Heads):
    """The list is one that modules know of."""

    def __init__(self, p: float) -> None:
        super().__init__(p)
        self.dropouts = nn.ModuleList(self.dropouts)


def exported(module: nn.Module, x: Tensor) -> ExportedProgram:
    """Export a module in the mode that it happens to be in."""
    batch = Dim("batch", max=1024)
    return export(module, (x,), dynamic_shapes=({0: batch},))


def exported_after(module: nn.Module, x: Tensor) -> ExportedProgram:
    """Export a module in evaluation mode."""
    return exported(module.eval(), x)


def evaluation_repeats(make: type[nn.Module]) -> bool:
    """Ask whether a model in evaluation mode gives the same twice."""
    model, x = make(0.2).eval(), torch.ones(8, 64)
    return torch.equal(model(x), model(x))


def program_repeats(to_program: Any) -> bool:
    """Ask whether the program that was exported from a model, fresh from training, gives the same twice."""
    x = torch.ones(8, 64)
    model = nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.2))
    program = to_program(model.train(), x).module()
    return torch.equal(program(x), program(x))


DEFECTS = (
    Defect("nanoGPT", "model", Attention, AttentionAfter, evaluation_repeats),
    Defect("MT-DNN", "model", Heads, HeadsAfter, evaluation_repeats),
    Defect("torch.export", "export", exported, exported_after, program_repeats),
)
