"""The clothing of the page that trains in the browser: Fashion-MNIST at 10 x 10 pixels of 16 greys, written as JavaScript.

`python book/live_images.py` writes book/_extra/live/images.js anew.
"""

from base64 import b64encode
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from asym import data

FILE = Path(__file__).parent / "_extra/live/images.js"
TRAIN, TEST = 100, 30  # images of each class
BLOCK = 3  # pixels; one of padding makes 28 ten threes
GREYS = 16
HEADER = """\
// {train} training and {test} test images of Fashion-MNIST, shrunk to {side} x {side} pixels of {greys} greys: two a byte,
// the left one first, as base64. Image n shows class n mod {classes}. Made by book/live_images.py from the files in
// asym/embedded, under their licence:
//
{licence}
"use strict";

(globalThis.Live ??= {{}}).images = {{
  side: {side},
  classes: {classes},
  train: "{train_images}",
  test: "{test_images}",
}};
"""


def selected(images: Tensor, labels: Tensor, each: int, classes: int) -> Tensor:
    """The first `each` images of every class, the classes in turn: (each * classes, 1, H, W)."""
    places = [torch.nonzero(labels == label)[:each, 0] for label in range(classes)]
    return images[torch.stack(places, 1).flatten()]


def shrunk(images: Tensor) -> Tensor:
    """uint8 (N, 1, 28, 28) -> the greys 0..15 (N, 1, 10, 10) nearest to the blocks' means."""
    sums = F.avg_pool2d(images.double(), BLOCK, padding=1, divisor_override=1).long()
    grey = BLOCK**2 * 255 // (GREYS - 1)
    return (sums + grey // 2) // grey


def packed(greys: Tensor) -> str:
    """Two greys a byte, as base64."""
    left, right = greys.flatten().view(-1, 2).unbind(1)
    return b64encode((left * GREYS + right).to(torch.uint8).numpy().tobytes()).decode()


def script() -> str:
    """The text of images.js."""
    found = data.load("fashion_mnist")
    parts = [(found.train_images, found.train_labels, TRAIN), (found.test_images, found.test_labels, TEST)]
    train, test = (shrunk(selected(*part, found.classes)) for part in parts)
    licence = (data.EMBEDDED / "fashion-mnist/LICENSE").read_text().split("-----")[0].strip()
    return HEADER.format(
        train=len(train),
        test=len(test),
        side=train.shape[-1],
        greys=GREYS,
        classes=found.classes,
        licence="\n".join(f"// {line}".rstrip() for line in licence.splitlines()),
        train_images=packed(train),
        test_images=packed(test),
    )


if __name__ == "__main__":
    FILE.write_text(script())
