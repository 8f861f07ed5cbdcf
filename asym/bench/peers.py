"""The same nets as others build them: stock torch in its natural form, BioTorch, unfold and einsum, JAX."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asym import data
from asym.nets import POGGIO_CHANNELS, POGGIO_HIDDEN

CLASSES = 10
SHAPE = (3, 32, 32)
HIDDEN = (512, 512, 256, 256)  # of the dense net
LAYER = {"channels": 32, "size": 16, "out": 64, "kernel": 5}  # the untied net's second convolution, for those who have no net
Step = Callable[[], object]


def images(batch: int, batches: int = 1) -> data.Dataset:
    """Random images of CIFAR-10's shape, so many batches of them; the same for every form."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (batch * batches, *SHAPE), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (batch * batches,), generator=generator)
    statistics = torch.full((3,), 0.5), torch.full((3,), 0.29)
    return data.Dataset("cifar10", pixels, labels, pixels[:batch], labels[:batch], CLASSES, *statistics, False, "")


class Unfolded(nn.Module):
    """A locally connected layer in torch's usual form: `F.unfold`, then a product at every position."""

    def __init__(self, channels: int, out: int, size: int, kernel: int = 5):
        super().__init__()
        self.size, self.kernel = size, kernel
        taps = channels * kernel * kernel
        self.weight = nn.Parameter(torch.randn(size * size, taps, out) / math.sqrt(taps))

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, self.kernel, padding=self.kernel // 2)  # N, taps, P
        return torch.einsum("nkp,pko->nop", patches, self.weight).unflatten(2, (self.size, self.size))


def stock(net: str, untied: bool = False) -> nn.Sequential:
    """The "dense" or the "poggio" net out of torch's own layers; untied: its convolutions by `Unfolded`."""
    if net == "dense":
        widths = (math.prod(SHAPE), *HIDDEN)
        hidden = [step for pair in zip(widths, HIDDEN, strict=False) for step in (nn.Linear(*pair, bias=False), nn.ReLU())]
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(widths[-1], CLASSES, bias=False))
    channels, size, steps = SHAPE[0], SHAPE[1], []
    for out, pool in zip(POGGIO_CHANNELS, (nn.MaxPool2d, nn.AvgPool2d, nn.AvgPool2d), strict=True):
        layer = Unfolded(channels, out, size) if untied else nn.Conv2d(channels, out, 5, padding=2, bias=False)
        steps += [layer, nn.ReLU(), pool(3, stride=2, padding=1)]
        channels, size = out, size // 2
    head = nn.Linear(channels * size * size, POGGIO_HIDDEN, bias=False), nn.ReLU(), nn.Linear(POGGIO_HIDDEN, CLASSES, bias=False)
    return nn.Sequential(*steps, nn.Flatten(), *head)


def epochs_of(model: nn.Module, batch: int, batches: int = 1, direct: bool = False) -> Step:
    """A model's training loop, on the same images in memory, with fused Adam; direct: BioTorch's way of handing dfa the loss."""
    dataset, generator = images(batch, batches), torch.Generator().manual_seed(0)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, 1e-3, fused=True)

    def epoch():
        for index in data.batches(len(dataset.train_labels), batch, generator):
            x, y = dataset.standardise(dataset.train_images[index]), dataset.train_labels[index]
            loss = F.cross_entropy(model(x, y, F.cross_entropy) if direct else model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def biotorch(net: str, rule: str, batch: int, batches: int = 1) -> Step:
    """The net converted by BioTorch."""
    from biotorch.module.biomodule import BioModule

    model = BioModule(stock(net), mode=rule, output_dim=CLASSES)
    return epochs_of(model, batch, batches, direct=rule == "dfa")


class Transformed(torch.utils.data.Dataset):
    """Images that are standardised one by one as they are asked for, as torchvision's data sets do it."""

    def __init__(self, dataset: data.Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset.train_labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.dataset.standardise(self.dataset.train_images[index]), self.dataset.train_labels[index]


def loader(batch: int, batches: int) -> Step:
    """One epoch through torch's DataLoader without workers."""
    batched = torch.utils.data.DataLoader(Transformed(images(batch, batches)), batch, shuffle=True, drop_last=True)
    return lambda: [x.sum() for x, _ in batched]


def jax_step(form: str) -> Callable:
    """(x, W) -> the sum of y squared and its gradients, of the untied layer alone in JAX, compiled; W (H, W, taps, O).

    form: "library" (conv_general_dilated_local) or "batched" (patches by slices, then one product at every position).
    """
    import jax
    import jax.numpy as jnp

    c, s, o, k = LAYER.values()
    pads = ((k // 2, k // 2),) * 2

    def library(x, weight):
        return jax.lax.conv_general_dilated_local(x, weight, (1, 1), pads, (k, k), dimension_numbers=("NCHW", "HWIO", "NCHW"))

    def batched(x, weight):
        x = jnp.pad(x, ((0, 0), (0, 0), *pads))
        patches = jnp.stack([x[:, :, i : i + s, j : j + s] for i in range(k) for j in range(k)], 2)  # N, C, taps, H, W
        return jnp.einsum("ncthw,hwcto->nohw", patches, weight.reshape(s, s, c, k * k, o))

    forward = {"library": library, "batched": batched}[form]
    return jax.jit(jax.value_and_grad(lambda x, weight: jnp.square(forward(x, weight)).sum(), (0, 1)))


def jax_local(batch: int, form: str) -> Step:
    """Output, dx and dW of the untied layer in JAX."""
    import jax

    c, s, o, k = LAYER.values()
    keys = jax.random.split(jax.random.PRNGKey(0), 2)
    x, weight = jax.random.normal(keys[0], (batch, c, s, s)), jax.random.normal(keys[1], (s, s, c * k * k, o))
    step = jax_step(form)
    return lambda: jax.block_until_ready(step(x, weight))
