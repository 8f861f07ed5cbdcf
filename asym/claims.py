"""What the original says, as quantities with bounds: each derived from the stored runs, judged by its interval over seeds."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from asym.results import at_epoch, interval
from asym.tables import original

HOLDS, CONTRADICTED, OPEN, UNTESTED = "holds", "contradicted", "not settled", "not yet tested"
DATASET = "cifar10"  # the original's; runs on other data settle nothing


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence that holds if a quantity, in points of test accuracy, lies between least and most.

    quantity(runs): one value a seed, indexed by seed, from a frame of results.frame. published: the original's value, where its
    tables give one; epochs: of the original's runs. The verdict: holds if the whole 95 % interval over seeds lies within the
    bounds, contradicted if it lies outside, else not settled; not yet tested with fewer than 3 seeds or epochs, or on other data.
    """

    id: str
    sentence: str
    quantity: Callable[[pd.DataFrame], pd.Series]
    epochs: int
    least: float = -math.inf
    most: float = math.inf
    published: float = math.nan

    def derive(self, runs: pd.DataFrame) -> dict:
        values = self.quantity(runs) if len(runs) else pd.Series(dtype=float)
        values = values.dropna()
        mean, half = interval(values) if len(values) else (math.nan, math.nan)
        comparable = len(values) >= 3 and set(runs["dataset"]) == {DATASET} and runs["epoch"].max() >= self.epochs
        return {
            "claim": self.id,
            "sentence": self.sentence,
            "published": self.published,
            "derived": mean,
            "half_width": half,
            "seeds": len(values),
            "least": self.least,
            "most": self.most,
            "verdict": self._verdict(mean, half) if comparable else UNTESTED,
        }

    def _verdict(self, mean: float, half: float) -> str:
        if self.least <= mean - half and mean + half <= self.most:
            return HOLDS
        return CONTRADICTED if mean + half < self.least or mean - half > self.most else OPEN


def accuracy(runs: pd.DataFrame, network: str, loss: str, epoch: int | None = None) -> pd.Series:
    """Test accuracy (%) by seed of one network at an epoch (None: its last)."""
    runs = runs[(runs["network"] == network) & (runs["loss"] == loss)]
    if not len(runs):
        return pd.Series(dtype=float)
    last = runs["epoch"].max() if epoch is None else min(epoch, runs["epoch"].max())
    return 100 * at_epoch(runs, last).set_index("seed")["test_accuracy"]


def _published(part: str, network: str, loss: str, epoch: int) -> float:
    rows = original(part)
    rows = rows[(rows["network"] == network) & (rows["loss"] == loss) & (rows["epochs"] == epoch)]
    return float(rows["accuracy_percent"].iloc[0]) if len(rows) else math.nan


def _difference(
    id: str, sentence: str, part: str, a: tuple[str, int], b: tuple[str, int], loss: str = "ce", **bounds: float
) -> Claim:
    """The claim about accuracy(a) - accuracy(b), paired by seed; a and b are (network, epoch)."""
    published = _published(part, *a[:1], loss, a[1]) - _published(part, *b[:1], loss, b[1])
    quantity = lambda runs: accuracy(runs, a[0], loss, a[1]) - accuracy(runs, b[0], loss, b[1])  # noqa: E731
    epochs = max(a[1], b[1])
    return Claim(id=id, sentence=sentence, quantity=quantity, epochs=epochs, published=round(published, 2), **bounds)


CLOSE = 3.0  # points: the spread of the original's own cells that it calls similar


def _dense() -> list[Claim]:
    claims = []
    for loss, name in (("ce", "cross entropy"), ("hinge", "hinge loss")):
        claims += [
            Claim(
                id=f"dense-learns-{loss}",
                sentence=f"With {name}, a shallow net with random feedback in both layers that send an error back still learns: "
                "more than twice the accuracy of a guess.",
                quantity=lambda runs, loss=loss: accuracy(runs, "DSR2", loss, 100),
                epochs=100,
                least=20,
                published=_published("table 2", "DSR2", loss, 100),
            ),
            _difference(
                f"dense-one-{loss}",
                f"With {name}, random feedback in the last layer alone costs less than {CLOSE:.0f} points.",
                "table 2", ("DSR1", 100), ("DS0", 100), loss, least=-CLOSE,
            ),
            _difference(
                f"dense-two-{loss}",
                f"With {name}, random feedback in both layers costs more than {CLOSE:.0f} points.",
                "table 2", ("DSR2", 100), ("DS0", 100), loss, most=-CLOSE,
            ),
            _difference(
                f"dense-shared-{loss}",
                f"With {name}, giving B the weight's update repairs the net with two random layers.",
                "table 2", ("DSR2-U", 100), ("DSR2", 100), loss, least=0,
            ),
        ]  # fmt: skip
    return claims


def _depth() -> list[Claim]:
    claims = []
    for loss, name in (("ce", "cross entropy"), ("hinge", "hinge loss")):
        for count in (1, 2, 4):
            claims.append(
                _difference(
                    f"depth-R{count}-{loss}",
                    f"With {name}, the deep net with random feedback in its last {count} layers loses more than 5 points.",
                    "table 4", (f"DDR{count}", 100), ("DD0", 100), loss, most=-5,
                )
            )  # fmt: skip
        for count in (1, 2, 4):
            claims.append(
                _difference(
                    f"depth-shared-R{count}-{loss}",
                    f"With {name}, updating B with the weight makes the net with {count} random layers better after 200 epochs.",
                    "table 4", (f"DDR{count}-U", 200), (f"DDR{count}", 200), loss, least=0,
                )
            )  # fmt: skip
    claims.append(
        Claim(
            id="depth-sweep-fa",
            sentence="With fixed random feedback in every layer, eight layers are worse than two (not in the original).",
            quantity=lambda runs: accuracy(runs, "8 layers, fa", "ce") - accuracy(runs, "2 layers, fa", "ce"),
            epochs=100,
            most=0,
        )
    )
    return claims


CLAIMS = {"dense": _dense, "depth": _depth}


def judge(question: str, runs: pd.DataFrame) -> pd.DataFrame:
    """Every claim of a question, derived from the runs: one row each, the columns of Claim.derive."""
    return pd.DataFrame([claim.derive(runs) for claim in CLAIMS[question]()])


def verdict(judged: pd.DataFrame) -> str:
    """The question's verdict from its claims: holds, holds in part, contradicted, or not yet tested."""
    settled = judged[judged["verdict"] != UNTESTED]
    if not len(settled):
        return UNTESTED
    if (judged["verdict"] == HOLDS).all():
        return HOLDS
    if (settled["verdict"] == CONTRADICTED).all():
        return CONTRADICTED
    return "holds in part"
