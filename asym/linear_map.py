"""Learning a linear map, the first experiment of Lillicrap et al. 2016: does feedback alignment need the weights at all?"""

from collections.abc import Iterable

import pandas as pd
import torch
from torch import Tensor, nn

from asym.layers import Linear
from asym.measures import angle
from asym.nets import stream

SIZES = (30, 20, 10)
START, FEEDBACK = 0.01, 0.5  # W0 ~ U(-START, START), B ~ U(-FEEDBACK, FEEDBACK), as in the paper
RATE, BATCH, TESTED, EVERY = 0.02, 10, 1000, 10
RULES = ("bp", "fa")


def run(seeds: Iterable[int] = range(10), steps: int = 400) -> pd.DataFrame:
    """One row a seed, rule and measured step: error, and delta_angle, the angle in degrees between the hidden layer's error and
    backpropagation's on the same inputs.

    y = W2 W1 x learns y* = T x with x normal and T ~ U(-1, 1), by stochastic gradient descent on |y* - y|^2 / 2. error is the sum
    of squares of y* - y over that of y*, on inputs that are not trained on. Both rules share T, W0 and the inputs of a seed.
    In float64 and one thread, and told in 6 digits, so that every processor gives the same.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return pd.DataFrame([row for seed in seeds for rule in RULES for row in _follow(rule, seed, steps)])
    finally:
        torch.set_num_threads(threads)


def _follow(rule: str, seed: int, steps: int) -> list[dict]:
    draw = stream(seed, f"linear map {SIZES}")
    uniform = lambda bound, *shape: bound * (2 * torch.rand(shape, generator=draw, dtype=torch.float64) - 1)
    n, hidden, outputs = SIZES
    target = uniform(1, outputs, n)
    net = nn.Sequential(Linear(n, hidden, bias=False), Linear(hidden, outputs, bias=False, rule=rule)).double()
    feedback = uniform(FEEDBACK, outputs, hidden)
    with torch.no_grad():
        for layer in net:
            layer.weight.copy_(uniform(START, *layer.weight.shape))
        if net[1].feedback is not None:
            net[1].feedback.copy_(feedback)
    tested = torch.randn(TESTED, n, generator=draw, dtype=torch.float64)
    rows = []
    for step in range(steps + 1):
        if step % EVERY == 0:
            rows.append({"rule": rule, "seed": seed, "step": step} | _measure(net, feedback, tested, tested @ target.t()))
        x = torch.randn(BATCH, n, generator=draw, dtype=torch.float64)
        loss = ((net(x) - x @ target.t()) ** 2).sum() / (2 * BATCH)
        for layer, gradient in zip(net, torch.autograd.grad(loss, [layer.weight for layer in net]), strict=True):
            layer.weight.data.sub_(gradient, alpha=RATE)
    return rows


@torch.no_grad()
def _measure(net: nn.Sequential, feedback: Tensor, x: Tensor, wanted: Tensor) -> dict[str, float]:
    missing = wanted - net(x)
    turned = angle(missing @ feedback, missing @ net[1].weight) if net[1].rule != "bp" else torch.zeros(())
    told = {"error": (missing**2).sum() / (wanted**2).sum(), "delta_angle": turned}
    return {name: float(f"{float(value):.6g}") for name, value in told.items()}
