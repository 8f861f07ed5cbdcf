"""Does it learn beside backpropagation? Table 2: shallow dense nets."""

from collections.abc import Iterator

from asym import quantities
from asym.cells import Cell, alone, table
from asym.claims import Claim, printed
from asym.config import LOSSES
from asym.quantities import accuracy, measure

ASKS = "Does asymmetric backpropagation learn at all, beside ordinary backpropagation?"
ANSWER = "yes, in shallow dense nets"
FIGURE = "fig-dense-beside"  # the page's main evidence
PART = "table 2"
NETWORKS = ("DS0", "DSR1", "DSR2", "DSR1-U", "DSR2-U")
LOSS_WORDS = {"ce": "With cross entropy", "hinge": "With hinge loss"}
CLOSE = 3.0  # points


def cells() -> Iterator[Cell]:
    yield from table(PART, NETWORKS, LOSSES, epochs=100)
    for loss in LOSSES:
        yield alone("DS0", loss=loss, epochs=100)


def claims() -> Iterator[Claim]:
    for loss, words in LOSS_WORDS.items():
        ours = {name: accuracy(PART, name, loss=loss, epoch=100) for name in NETWORKS}
        floor = quantities.alone("DS0", loss=loss, epoch=100)
        theirs = {name: printed(PART, name, loss=loss) for name in NETWORKS}
        minus = lambda a, b, ours=ours, theirs=theirs: {
            "quantity": ours[a] - ours[b],
            "published": theirs[a] - theirs[b],
        }
        yield Claim(
            id=f"dense-learns-{loss}",
            sentence=f"{words}, a shallow net learns from random feedback in both layers that send an error back: it ends above "
            "the same net whose last layer learns alone.",
            quantity=ours["DSR2"] - floor,
            least=0,
        )
        yield Claim(
            id=f"dense-alone-{loss}",
            sentence=f"{words}, the shallow net whose last layer learns alone ends at this test accuracy.",
            quantity=floor,
        )
        yield Claim(
            id=f"dense-one-{loss}",
            sentence=f"{words}, random feedback in the last layer alone costs less than {CLOSE:.0f} points.",
            least=-CLOSE,
            **minus("DSR1", "DS0"),
            answers=False,
        )
        yield Claim(
            id=f"dense-two-{loss}",
            sentence=f"{words}, random feedback in both layers costs more than {CLOSE:.0f} points.",
            most=-CLOSE,
            **minus("DSR2", "DS0"),
            answers=False,
        )
        yield Claim(
            id=f"dense-shared-{loss}",
            sentence=f"{words}, giving B the weight's update changes the net with two random layers by this much.",
            **minus("DSR2-U", "DSR2"),
        )
        for name in NETWORKS[3:]:
            sentence = f"{words}, {name} ends this far from DS0."
            yield Claim(id=f"dense-{name}-minus-{loss}", sentence=sentence, **minus(name, "DS0"))
        for name in NETWORKS:
            sentence = f"{words}, {name} ends at this test accuracy."
            yield Claim(id=f"dense-{name}-{loss}", sentence=sentence, quantity=ours[name], published=theirs[name])
    yield Claim(
        id="dense-DSR1-start-3",
        sentence="The weight angle of layer 3 of DSR1 starts here.",
        quantity=measure("weight_angle", PART, "DSR1", 3, epoch=0, loss="ce"),
    )
    for network in ("DSR1", "DSR2", "DSR2-U"):
        for layer in (2, 3) if network != "DSR1" else (3,):
            yield Claim(
                id=f"dense-{network}-angle-{layer}",
                sentence=f"The weight angle of layer {layer} of {network} ends here.",
                quantity=measure("weight_angle", PART, network, layer, loss="ce"),
            )
        if network == "DSR2-U":
            yield Claim(
                id="dense-DSR2-U-ratio-3",
                sentence="The feedback of layer 3 of DSR2-U ends so many times as large as the weight.",
                quantity=measure("feedback_ratio", PART, network, 3, loss="ce"),
            )
        yield Claim(
            id=f"dense-{network}-gradient",
            sentence=f"The first layer's gradient in {network} ends at this angle to backpropagation's.",
            quantity=measure("gradient_angle", PART, network, 1, loss="ce"),
        )
