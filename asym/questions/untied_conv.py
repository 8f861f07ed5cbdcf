"""Does untied convolution work? Tables 9, 10, 13 and 14 and section 7: starts, overfitting, a fixed first layer, L2, dropout."""

from collections.abc import Iterator
from dataclasses import replace

from asym.cells import Cell, cell, table
from asym.claims import Claim, printed
from asym.config import LOSSES
from asym.quantities import accuracy, overfit
from asym.questions import conv_dense_head
from asym.questions.dense import LOSS_WORDS

ASKS = "Does untied convolution work?"
ANSWER = "sound, but its many parameters overfit severely"
FIGURE = "fig-untied-conv-overfitting"  # the page's main evidence
NETWORKS = ("PG-Untie", "PG-Untie-R1", "PG-Untie-R2", "PG-Untie-R1-U", "PG-Untie-R2-U")
FIXED_NETWORKS = ("PG-Untie", "PG-Untie-R2", "PG-Untie-R3", "PG-Untie-R2-U", "PG-Untie-R3-U")
FIXED = {"frozen": (0,), "pretrained": 100, "activation": "tanh", "epochs": 100}  # the first convolution of a trained PG0
L2 = (1e-4, 1e-3, 1e-2)
DROPOUT = (0.1, 0.5)
SECTION_7 = "table 16t"
ACTIVATIONS = {"table 9": "relu", "table 10": "tanh"}


def cells() -> Iterator[Cell]:
    for part, activation in ACTIVATIONS.items():
        yield from table(part, NETWORKS, epochs=200, activation=activation)
    yield from table("table 13", FIXED_NETWORKS, LOSSES, **FIXED)
    yield from table("table 14", ("PG0",), LOSSES, dataset="cifar100", activation="tanh", epochs=100)
    yield from table("table 14", FIXED_NETWORKS, LOSSES, dataset="cifar100", **FIXED)
    for l2 in L2:
        name = "PG-Untie-R2-L2" + ("" if l2 == L2[0] else f" {l2:g}")
        yield cell(SECTION_7, "PG-Untie-R2", name=name, l2=l2, **FIXED)
    for dropout in DROPOUT:
        yield cell(SECTION_7, "PG-Untie-R2", name=f"PG-Untie-R2-dropout{100 * dropout:.0f}", dropout=dropout, **FIXED)
    for activation in ACTIVATIONS.values():
        yield cell(
            "controls", "PG0", epochs=300, activation=activation, of=("conv_dense_head", conv_dense_head.TABLES[activation])
        )
        yield cell("controls", "PG-Untie", name="PG-Untie, tied start", epochs=200, activation=activation, tied_start=True)
        yield cell("controls", "PG-Untie-R2", name="PG-Untie-R2, tied start", epochs=200, activation=activation, tied_start=True)
    yield cell("controls", "PG0", name="PG0, fixed first layer", **FIXED)


def claims() -> Iterator[Claim]:
    for part, activation in ACTIVATIONS.items():
        tied = {"epoch": 200, "activation": activation}
        yield Claim(
            id=f"untied-sound-{activation}",
            sentence=f"With {activation}, the untied net learns by backpropagation: above 50 %.",
            quantity=accuracy(part, "PG-Untie"),
            published=printed(part, "PG-Untie"),
            least=50,
        )
        yield Claim(
            id=f"untied-costs-{activation}",
            sentence=f"With {activation}, untying every convolution costs more than 2 points of test accuracy.",
            quantity=accuracy(part, "PG-Untie") - accuracy("controls", "PG0", **tied),
            published=printed(part, "PG-Untie") - printed(conv_dense_head.TABLES[activation], "PG0", loss="ce"),
            most=-2,
        )
        yield Claim(
            id=f"untied-overfits-{activation}",
            sentence=f"With {activation}, the untied net overfits: its training accuracy is more than 20 points above its "
            "test accuracy.",
            quantity=overfit(part, "PG-Untie"),
            least=20,
            answers=False,  # tied and dense nets may overfit as much
        )
        yield Claim(
            id=f"untied-overfits-more-{activation}",
            sentence=f"With {activation}, the untied net's gap between training and test accuracy is larger than the tied one's.",
            quantity=overfit(part, "PG-Untie") - overfit("controls", "PG0", **tied),
            least=0,
        )
        for network, slug in (("PG-Untie", ""), ("PG-Untie-R2", "R2-")):
            yield Claim(
                id=f"untied-start-{slug}{activation}",
                sentence=f"With {activation}, a start from tied kernels, not independent ones, changes {network} by this much.",
                quantity=accuracy("controls", f"{network}, tied start", activation=activation) - accuracy(part, network),
            )
        for network in NETWORKS[1:]:
            yield Claim(
                id=f"untied-{activation}-{network.removeprefix('PG-Untie-')}",
                sentence=f"With {activation}, {network} ends this far from PG-Untie.",
                quantity=accuracy(part, network) - accuracy(part, "PG-Untie"),
                published=printed(part, network) - printed(part, "PG-Untie"),
            )
        for network in NETWORKS[1:3]:
            yield Claim(
                id=f"untied-{activation}-{network.removeprefix('PG-Untie-')}-shared",
                sentence=f"With {activation}, shared updates change {network} by this much.",
                quantity=accuracy(part, f"{network}-U") - accuracy(part, network),
                published=printed(part, f"{network}-U") - printed(part, network),
            )
    for claim in (*_fixed_claims(), *_section_7_claims()):
        yield replace(claim, answers=False)  # sentences of their own


def _fixed_claims() -> Iterator[Claim]:
    for part, dataset in (("table 13", "CIFAR-10"), ("table 14", "CIFAR-100")):
        for loss, words in LOSS_WORDS.items():
            for network in FIXED_NETWORKS[1:]:
                yield Claim(
                    id=f"untied-fixed-{dataset}-{network.removeprefix('PG-Untie-')}-{loss}",
                    sentence=f"{words} on {dataset}, first layer fixed, {network} is within 3 points of PG-Untie or above it.",
                    quantity=accuracy(part, network, loss=loss) - accuracy(part, "PG-Untie", loss=loss),
                    published=printed(part, network, loss=loss) - printed(part, "PG-Untie", loss=loss),
                    least=-3,
                )
    yield Claim(
        id="untied-fixed-helps",
        sentence="With tanh, a fixed first convolution from a trained PG0 makes the untied net better than training all of it.",
        quantity=accuracy("table 13", "PG-Untie", loss="ce") - accuracy("table 10", "PG-Untie", epoch=100),
        published=printed("table 13", "PG-Untie", loss="ce") - printed("table 10", "PG-Untie"),
        least=0,
    )
    yield Claim(
        id="untied-fixed-tied",
        sentence="With tanh and the same fixed first layer, the untied net ends this far from the tied one.",
        quantity=accuracy("table 13", "PG-Untie", loss="ce") - accuracy("controls", "PG0, fixed first layer"),
    )
    for loss, words in LOSS_WORDS.items():
        yield Claim(
            id=f"untied-cifar100-tied-{loss}",
            sentence=f"{words} on CIFAR-100, the untied net with a fixed first layer is within 3 points of the tied net or above "
            "it.",
            quantity=accuracy("table 14", "PG-Untie", loss=loss) - accuracy("table 14", "PG0", loss=loss),
            published=printed("table 14", "PG-Untie", loss=loss) - printed("table 14", "PG0", loss=loss),
            least=-3,
        )


def _section_7_claims() -> Iterator[Claim]:
    plain = accuracy("table 13", "PG-Untie-R2", loss="ce")
    theirs = printed("table 13", "PG-Untie-R2", loss="ce")
    for name, sentence, bounds in (
        ("PG-Untie-R2-L2", "An L2 penalty of 1e-4 on the untied weights makes PG-Untie-R2 worse.", {"most": 0}),
        ("PG-Untie-R2-L2 0.001", "A greater L2 penalty, 1e-3, costs more than 10 points.", {"most": -10}),
        ("PG-Untie-R2-L2 0.01", "A greater L2 penalty, 1e-2, costs more than 10 points.", {"most": -10}),
        ("PG-Untie-R2-dropout10", "Dropout of 10 % after the untied convolutions does not help PG-Untie-R2.", {"most": 0}),
        ("PG-Untie-R2-dropout50", "Dropout of 50 % after the untied convolutions costs more than 10 points.", {"most": -10}),
    ):
        slug = name.removeprefix("PG-Untie-R2-").replace(" ", "-")
        ours = accuracy(SECTION_7, name) - plain
        yield Claim(id=f"untied-{slug}", sentence=sentence, quantity=ours, published=printed(SECTION_7, name) - theirs, **bounds)
