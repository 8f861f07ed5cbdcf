"""Made-up runs, whose every number is known: what reads stored runs is tested without training."""

from asym.config import Config
from asym.measures import MEASURES
from asym.results import Record

GUESS = 0.1
PROVENANCE = {"started": "2020-01-01T00:00:00+00:00", "seconds": 1.0, "device": "made up", "threads": 1, "torch": "2.0"}
PROVENANCE |= {"commit": 40 * "0", "data_note": ""}


def record(
    config: Config, accuracy: float = 0.5, *, diverged_at: int | None = None, validation: float = 0.5, every: int = 1
) -> Record:
    """A run whose test accuracy grows linearly from 0 to `accuracy` at its last epoch, its training accuracy twice as fast.

    Its held-out images give `validation` throughout; every measure of layer l is 10 l + epoch. A diverged run ends at a guess.
    every: of more epochs only each of so many has its row.
    """
    last = config.epochs if diverged_at is None else diverged_at
    epochs = []
    for epoch in range(0, last + 1, every):
        reached = GUESS if epoch == diverged_at else accuracy * epoch / config.epochs
        row = {"epoch": epoch, "train_loss": 1.0, "train_accuracy": 2 * reached, "test_accuracy": reached, "seconds": 1.0}
        row |= {"validation_accuracy": validation} if config.validation else {}
        measures = [10.0 * (layer + 1) + epoch for layer in range(config.layers)]
        epochs.append(row | {name: list(measures) for name in MEASURES})
    return Record(config, epochs, diverged_at is not None, dict(PROVENANCE))
