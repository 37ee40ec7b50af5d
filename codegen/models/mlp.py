"""A small multilayer perceptron, trained on which of two choices is faster.

The loss of a pair is ``log(1 + exp(-(difference of outputs)))``, weighted with the difference of the scores: Burges et
al., "Learning to Rank using Gradient Descent", 2005.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ._shares import shares

if TYPE_CHECKING:
    from . import Array, CostModel

WIDTH = 48
EPOCHS = 150
# Choices in a step; all pairs among them count.
BATCH = 64


class Perceptron:
    """Two hidden layers, in float32, on one thread."""

    def __init__(self, seed: int) -> None:
        import torch

        self._torch: Any = torch
        self._seed = seed
        self._network: Any = None
        self._mean = self._scale = self._importance = np.zeros(0)

    def fit(self, features: Array, scores: Array) -> None:
        """See the interface."""
        torch = self._torch
        self._mean, self._scale = features.mean(0), np.maximum(features.std(0), 1e-6)
        # Scores that differ by their standard deviation count as much whatever their unit.
        known = torch.tensor(scores / (scores.std() or 1.0), dtype=torch.float32)
        with self._alone(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            self._network = torch.nn.Sequential(
                torch.nn.Linear(features.shape[1], WIDTH),
                torch.nn.SiLU(),
                torch.nn.Linear(WIDTH, WIDTH),
                torch.nn.SiLU(),
                torch.nn.Linear(WIDTH, 1),
            )
            inputs = self._tensor(features)
            optimizer = torch.optim.AdamW(self._network.parameters(), lr=5e-3, weight_decay=1e-2)
            for _ in range(EPOCHS):
                for rows in torch.randperm(len(inputs)).split(BATCH):
                    better = (known[rows, None] - known[None, rows]).clamp(min=0)
                    outputs = self._network(inputs[rows])
                    loss = (better * torch.nn.functional.softplus(outputs.T - outputs)).mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
            inputs.requires_grad_(True)
            (slopes,) = torch.autograd.grad(self._network(inputs).sum(), inputs)
        self._importance = shares(slopes.abs().mean(0).numpy().astype(np.float64))

    def predict(self, features: Array) -> Array:
        """The output of the network: only its order means something."""
        if self._network is None:
            return np.zeros(len(features))
        with self._alone(), self._torch.no_grad():
            outputs = self._network(self._tensor(features))
        return np.asarray(outputs.squeeze(1).numpy(), dtype=np.float64)

    def importance(self) -> Array:
        """The mean slope of the output along a feature, over the trials, the feature being scaled to deviate by 1."""
        return self._importance

    def _tensor(self, features: Array) -> Any:
        return self._torch.tensor((features - self._mean) / self._scale, dtype=self._torch.float32)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """On one thread: sums then have one order, and trials being timed are not disturbed."""
        threads = self._torch.get_num_threads()
        self._torch.set_num_threads(1)
        try:
            yield
        finally:
            self._torch.set_num_threads(threads)


def create(seed: int) -> CostModel:
    """A fresh model."""
    return Perceptron(seed)
