"""Random feedback inside untied convolution: R3, as in tables 13 and 14 and the text; and what the original could not hold in
memory, R4, every layer that can."""

from collections.abc import Iterator
from dataclasses import replace

from asym.cells import Cell, table, with_shared
from asym.claims import Claim, printed
from asym.quantities import accuracy, measure
from asym.questions import untied_conv
from asym.questions.dense import LOSS_WORDS

ASKS = "Random feedback inside untied convolution?"
ANSWER = "ruins the training"
FIGURE = "fig-untied-feedback-against-count"  # the page's main evidence
PARTS = {"table 10t": "tanh", "relu": "relu"}
TABLES = {"table 10t": "table 10", "relu": "table 9"}  # the original's of the nets without random feedback inside
FIXED = {"fixed first layer, CIFAR-10": "table 13", "fixed first layer, CIFAR-100": "table 14"}
NETWORKS = with_shared(["PG-Untie", *(f"PG-Untie-R{count}" for count in range(1, 5))])
RUINED = 10.0  # points


def cells() -> Iterator[Cell]:
    for part, activation in PARTS.items():
        yield from table(part, NETWORKS, epochs=200, activation=activation, of=("untied_conv", TABLES[part]))
    for part, home in FIXED.items():
        for asked in untied_conv.cells():
            if asked.part == home and asked.network in untied_conv.FIXED_NETWORKS[1:]:
                yield replace(asked, part=part, of=("untied_conv", home))


def claims() -> Iterator[Claim]:
    yield Claim(
        id="feedback-R3-tanh-works",
        sentence="With tanh, random feedback in the last untied convolution too (R3) reaches more than 55 % (the original: "
        "62.59 %).",
        quantity=accuracy("table 10t", "PG-Untie-R3"),
        published=printed("table 10t", "PG-Untie-R3"),
        least=55,
        answers=False,
    )
    for part, activation in PARTS.items():
        control = accuracy(part, "PG-Untie")
        for count, where in ((3, "the last untied convolution"), (4, "two untied convolutions, all that send an error back,")):
            yield Claim(
                id=f"feedback-ruins-R{count}-{activation}",
                sentence=f"With {activation}, random feedback in {where} and both dense layers ruins the training: "
                f"more than {RUINED:.0f} points below backpropagation.",
                quantity=accuracy(part, f"PG-Untie-R{count}") - control,
                published=printed(part, f"PG-Untie-R{count}") - printed(TABLES[part], "PG-Untie"),
                most=-RUINED,
                answers=False,  # of the dense layers' random feedback too
            )
            yield Claim(
                id=f"feedback-inside-R{count}-{activation}",
                sentence=f"With {activation}, random feedback in {where} ruins what both dense layers' leaves: more than "
                f"{RUINED:.0f} points below R2.",
                quantity=accuracy(part, f"PG-Untie-R{count}") - accuracy(part, "PG-Untie-R2"),
                published=printed(part, f"PG-Untie-R{count}") - printed(TABLES[part], "PG-Untie-R2"),
                most=-RUINED,
                answers=(part, count) == ("table 10t", 3),  # the original has no other of these nets
            )
            yield Claim(
                id=f"feedback-shared-R{count}-{activation}",
                sentence=f"With {activation}, shared updates change R{count} by this much.",
                quantity=accuracy(part, f"PG-Untie-R{count}-U") - accuracy(part, f"PG-Untie-R{count}"),
            )
        for network in ("PG-Untie-R2", "PG-Untie-R4", "PG-Untie-R4-U"):
            yield Claim(
                id=f"feedback-{network.removeprefix('PG-Untie-')}-{activation}-gradient",
                sentence=f"With {activation}, the first layer's gradient in {network} ends at this angle to backpropagation's.",
                quantity=measure("gradient_angle", part, network, 1),
            )
    for part, home in FIXED.items():
        dataset = part.rpartition(", ")[2]
        for loss, words in LOSS_WORDS.items():
            for shared in ("", "-U"):
                inside, head = f"PG-Untie-R3{shared}", f"PG-Untie-R2{shared}"
                yield Claim(
                    id=f"feedback-fixed-{dataset}-R3{shared}-{loss}",
                    sentence=f"{words} on {dataset}, first layer fixed, random feedback in the last untied convolution ruins "
                    f"what both dense layers' leaves: {inside} is more than {RUINED:.0f} points below {head}.",
                    quantity=accuracy(part, inside, loss=loss) - accuracy(part, head, loss=loss),
                    published=printed(home, inside, loss=loss) - printed(home, head, loss=loss),
                    most=-RUINED,
                )
