"""Random feedback in the dense head of a conv net: tables 6 and 7, and what the original says of optimisers and pooling."""

from collections.abc import Iterator
from dataclasses import replace

from asym import quantities
from asym.cells import ALONE, Cell, alone, cell, table
from asym.claims import Claim, printed
from asym.config import LOSSES
from asym.quantities import LEVEL, accuracy, diverged, level, measure
from asym.questions.dense import LOSS_WORDS

ASKS = "Random feedback in the dense head of a conv net?"
ANSWER = "possible, but poor"
FIGURE = "fig-conv-dense-head-beside"  # the page's main evidence
NETWORKS = ("PG0", "PGR1", "PGR2", "PGR1-U", "PGR2-U")
TABLES = {"relu": "table 6", "tanh": "table 7"}
LONGEST = 300  # no epoch count is printed of table 7 and of the text's nets; they get table 6's longest
TEXT = "table 6t"
TEXT_LR = 0.01
FAILS = 20.0  # %: twice the accuracy of a guess


def cells() -> Iterator[Cell]:
    yield from table("table 6", NETWORKS, LOSSES, epochs=LONGEST)
    yield from table("table 7", NETWORKS, epochs=LONGEST, activation="tanh")
    for optimizer in ("sgd", "nesterov"):
        yield from table(TEXT, ("PG0", "PGR1", "PGR2"), epochs=LONGEST, optimizer=optimizer, lr=TEXT_LR)
    for options in ({"optimizer": "sgd", "lr": TEXT_LR}, {}):
        for network in ("PG0", "PGR2"):
            yield cell(TEXT, network, name=f"{network}-max", epochs=LONGEST, pooling="max", **options)
    for loss in LOSSES:
        yield alone("PG0", loss=loss, epochs=LONGEST)
    yield alone("PG0", activation="tanh", epochs=LONGEST)


def claims() -> Iterator[Claim]:
    for loss, words in LOSS_WORDS.items():
        for network in NETWORKS[1:]:
            for epoch, slug in ((100, ""), (LONGEST, "-end")):
                yield Claim(
                    id=f"head-poor-{network}-{loss}{slug}",
                    sentence=f"{words}, {network} is more than 10 points below backpropagation after {epoch} epochs.",
                    quantity=accuracy("table 6", network, loss=loss, epoch=epoch)
                    - accuracy("table 6", "PG0", loss=loss, epoch=epoch),
                    published=printed("table 6", network, epoch, loss=loss)
                    - printed("table 6", "PG0", 100, loss=loss),  # its last
                    most=-10,
                )
        for network in NETWORKS[1:]:
            yield Claim(
                id=f"head-slow-{network}-{loss}",
                sentence=f"{words}, {network} still gains more than 5 points from 100 to 300 epochs.",
                quantity=accuracy("table 6", network, loss=loss, epoch=300) - accuracy("table 6", network, loss=loss, epoch=100),
                published=printed("table 6", network, 300, loss=loss) - printed("table 6", network, 100, loss=loss),
                least=5,
                answers=False,
            )
        floor = quantities.alone("PG0", loss=loss, activation="relu")
        yield Claim(
            id=f"head-alone-{loss}",
            sentence=f"{words}, the conv net whose last layer learns alone ends at this test accuracy.",
            quantity=floor,
        )
        for network in NETWORKS[1:]:
            yield Claim(
                id=f"head-learns-{network}-{loss}",
                sentence=f"{words}, {network} is possible: it ends above the same net whose last layer learns alone.",
                quantity=accuracy("table 6", network, loss=loss) - floor,
                least=0,
            )
            yield Claim(
                id=f"head-learns-{network}-{loss}-level",
                sentence=f"{words} and averaged over the last {LEVEL} epochs, {network} ends this far from the same net whose "
                "last layer learns alone.",
                quantity=level("table 6", network, loss=loss) - level(ALONE, f"PG0, {ALONE}", loss=loss, activation="relu"),
            )
    for network in NETWORKS[1:]:
        yield Claim(
            id=f"head-tanh-{network}",
            sentence=f"With tanh, {network} is within 3 points of backpropagation or above it.",
            quantity=accuracy("table 7", network) - accuracy("table 7", "PG0"),
            published=printed("table 7", network) - printed("table 7", "PG0"),
            least=-3,
            answers=False,
        )
    floor = quantities.alone("PG0", loss="ce", activation="tanh")
    yield Claim(
        id="head-alone-tanh",
        sentence="With tanh, the conv net whose last layer learns alone ends at this test accuracy.",
        quantity=floor,
    )
    for network in NETWORKS[1:]:
        yield Claim(
            id=f"head-learns-{network}-tanh",
            sentence=f"With tanh, {network} is possible: it ends above the same net whose last layer learns alone.",
            quantity=accuracy("table 7", network) - floor,
            least=0,
            answers=False,  # "poor" is not said of the tanh nets either, or its own table 7 would contradict it
        )
    for claim in _text_claims():
        yield replace(claim, answers=False)  # sentences of their own
    for part in ("table 6", "table 7"):
        for network in ("PGR1", "PGR2", "PGR2-U"):
            yield Claim(
                id=f"head-{part[-1]}-{network}-gradient",
                sentence=f"The first convolution's gradient in {network} of {part} ends at this angle to backpropagation's.",
                quantity=measure("gradient_angle", part, network, 1, loss="ce"),
            )
            yield Claim(
                id=f"head-{part[-1]}-{network}-idle",
                sentence=f"This share of the hidden dense layer's units of {network} of {part} is idle at the end.",
                quantity=measure("idle", part, network, 4, loss="ce"),
            )


def _text_claims() -> Iterator[Claim]:
    """The sentences of the original's section 4."""
    sgd = lambda network: accuracy(TEXT, network, optimizer="sgd")
    nesterov = lambda network: accuracy(TEXT, network, optimizer="nesterov")
    yield Claim(
        id="head-sgd-R1",
        sentence="Plain SGD at 0.01 works with random feedback in the last layer: above 60 % (the original: 68 %).",
        quantity=sgd("PGR1"),
        published=printed(TEXT, "PGR1"),
        least=60,
    )
    yield Claim(
        id="head-sgd-R2",
        sentence=f"Plain SGD at 0.01 fails with random feedback in the last two layers: below {FAILS:.0f} %.",
        quantity=sgd("PGR2"),
        most=FAILS,
    )
    for network in ("PGR1", "PGR2"):
        yield Claim(
            id=f"head-nesterov-{network}",
            sentence=f"Nesterov momentum at 0.01 fails with {network}: below {FAILS:.0f} %.",
            quantity=nesterov(network),
            most=FAILS,
        )
    for network in ("PGR1", "PGR2"):
        yield Claim(
            id=f"head-nesterov-{network}-diverged",
            sentence=f"With Nesterov momentum at 0.01 so many of the runs of {network} diverge.",
            quantity=diverged(TEXT, network, optimizer="nesterov"),
        )
    for optimizer, words, slug in (("sgd", "SGD", ""), ("adam", "Adam", "-adam")):
        on = {"optimizer": optimizer}
        yield Claim(
            id=f"head-max-pooling{slug}",
            sentence=f"With {words}, max pooling in place of average pooling cures the net with two random layers: within 10 "
            "points of its control.",
            quantity=accuracy(TEXT, "PGR2-max", **on) - accuracy(TEXT, "PG0-max", **on),
            least=-10,
        )
    for optimizer, read in (("sgd", sgd), ("nesterov", nesterov)):
        yield Claim(
            id=f"head-{optimizer}-PG0", sentence=f"Backpropagation with {optimizer} at 0.01 ends here.", quantity=read("PG0")
        )
