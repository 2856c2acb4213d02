"""The model of the chapter "frameworks" in PyTorch."""

import numpy as np
import torch
from torch import nn

Arrays = list[np.ndarray]


def build(p: float, weights: Arrays, seed: int) -> nn.Sequential:
    """Return the network; `seed` is that of the masks."""
    model = nn.Sequential(
        nn.Linear(784, 128),
        nn.ReLU(),
        nn.Dropout(p),
        nn.Linear(128, 10),
    )
    with torch.no_grad():
        for own, value in zip(model.parameters(), weights, strict=True):
            own.copy_(torch.from_numpy(value.T))  # (outputs, inputs)
    torch.manual_seed(seed)  # one stream for the whole process
    return model


def train(
    model: nn.Sequential,
    x: np.ndarray,
    y: np.ndarray,
    batches: np.ndarray,
) -> None:
    """Take a step for each row of `batches`, row numbers of x."""
    images, labels = torch.from_numpy(x), torch.from_numpy(y)
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model.train()  # dropout on, until somebody says eval
    for rows in batches:
        sgd.zero_grad()
        logits = model(images[rows])
        nn.functional.cross_entropy(logits, labels[rows]).backward()
        sgd.step()


def predict(model: nn.Sequential, x: np.ndarray) -> np.ndarray:
    """Return class probabilities."""
    model.eval()  # dropout off
    with torch.no_grad():  # this alone would leave dropout on
        return model(torch.from_numpy(x)).softmax(dim=1).numpy()


def weights(model: nn.Sequential) -> Arrays:
    """Return the weights, matrices as (inputs, outputs)."""
    return [own.detach().numpy().T.copy() for own in model.parameters()]
