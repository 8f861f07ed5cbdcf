"""Every layer under every rule, a forward and a backward pass: for pytest-benchmark to compare two commits.

.venv/bin/pytest benchmarks --benchmark-autosave, and on the other commit .venv/bin/pytest benchmarks --benchmark-compare.
"""

import pytest
import torch

import asym
from asym.rules import RULES

LAYERS = {
    "Linear": (lambda rule: asym.Linear(512, 512, bias=False, rule=rule), (500, 512)),
    "Conv2d": (lambda rule: asym.Conv2d(32, 64, 5, padding=2, bias=False, rule=rule), (100, 32, 16, 16)),
    "UntiedConv2d": (lambda rule: asym.UntiedConv2d(32, 64, 5, 16, padding=2, bias=False, rule=rule), (100, 32, 16, 16)),
}


@pytest.mark.parametrize("rule", [rule.key for rule in RULES.values() if not rule.direct])
@pytest.mark.parametrize("kind", LAYERS)
def test_forward_and_backward(benchmark, kind, rule):
    make, shape = LAYERS[kind]
    layer, x = make(rule), torch.randn(*shape).requires_grad_()
    if x.dim() == 4:
        x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    e = torch.randn_like(layer(x))
    gradients = benchmark(lambda: torch.autograd.grad(layer(x), (x, layer.weight), e))
    assert all(gradient.isfinite().all() for gradient in gradients)
