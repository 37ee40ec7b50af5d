"""A small model to tune: a classifier of short sequences, whose layers have sizes that no shipped kernel is made for.

    tvmops-codegen tune --model examples/small_model.py:make_model --minutes 10

finds kernels for its layers and makes a pack of them, which speeds up the model once it is on tvmops:

    tvmops.nn.replace(model)
    tvmops.load_pack("build/tuned/default.so")
"""

from __future__ import annotations

import torch

TOKENS, WIDTH, HIDDEN, CLASSES = 32, 176, 432, 40


class Block(torch.nn.Module):
    """Two layers with a residual, normalised: the feed-forward half of a transformer."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(width)
        self.up = torch.nn.Linear(width, hidden)
        self.activation = torch.nn.GELU()
        self.down = torch.nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.activation(self.up(self.norm(x))))


def make_model() -> tuple[torch.nn.Module, tuple[torch.Tensor]]:
    """The model, and an example of its inputs: one sequence of 32 vectors."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        Block(WIDTH, HIDDEN),
        Block(WIDTH, HIDDEN),
        torch.nn.Linear(WIDTH, CLASSES),
        torch.nn.Softmax(dim=-1),
    ).eval()
    return model, (torch.randn(1, TOKENS, WIDTH),)


if __name__ == "__main__":
    example, inputs = make_model()
    print(example(*inputs).shape)
