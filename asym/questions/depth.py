"""Does it survive depth? Table 4: deep dense nets; and a sweep over depth that the original lacks."""

from collections.abc import Callable, Iterator

from asym import quantities
from asym.cells import Cell, alone, table
from asym.claims import Claim, printed
from asym.config import LOSSES, Config, last
from asym.quantities import LEVEL, Quantity, accuracy, level, measure
from asym.questions.dense import LOSS_WORDS

ASKS = "Does it survive depth?"
ANSWER = "deeper nets are more vulnerable"
FIGURE = "fig-depth-curves"  # the page's main evidence
PART = "table 4"
NETWORKS = ("DD0", "DDR1", "DDR2", "DDR4", "DDR1-U", "DDR2-U", "DDR4-U")
SHALLOW, SHALLOW_NETWORKS = "shallow", ("DS0", "DSR1", "DSR2")
RANDOM = {1: "layer", 2: "two layers", 4: "four layers"}  # how many of the last layers have random feedback
COSTLY = 5.0  # points
SWEEP_RULES = ("bp", "fa", "shared_update", "kp", "dfa")
SWEEP_DEPTHS = tuple(range(2, 9))
SWEEP_WIDTH = 256
KP_DECAY = 1.0  # with Adam's 1e-3, W - B loses 0.1 % a step: 10 % a CIFAR epoch


def cells() -> Iterator[Cell]:
    # the original trained its control for 100 epochs only; here it gets the budget of the nets beside it
    yield from table(PART, NETWORKS, LOSSES, epochs=200)
    for loss in LOSSES:
        yield alone("DD0", loss=loss, epochs=200)
    yield from table(SHALLOW, SHALLOW_NETWORKS, LOSSES, epochs=100, of=("dense", "table 2"))
    for depth in SWEEP_DEPTHS:
        for rule in SWEEP_RULES:
            hidden = (SWEEP_WIDTH,) * (depth - 1)
            decay = KP_DECAY if rule == "kp" else 0.0
            rules = last(rule, depth - 1, depth)
            config = Config(dataset="cifar10", hidden=hidden, rules=rules, epochs=100, weight_decay=decay)
            yield Cell(part="sweep", network=f"{depth} layers, {rule}", config=config)


def claims() -> Iterator[Claim]:
    for loss, words in LOSS_WORDS.items():
        for count, layers in RANDOM.items():
            network = f"DDR{count}"
            yield Claim(
                id=f"depth-R{count}-{loss}",
                sentence=f"{words}, the deep net with random feedback in its last {layers} loses more than {COSTLY:.0f} points.",
                quantity=accuracy(PART, network, loss=loss, epoch=100) - accuracy(PART, "DD0", loss=loss, epoch=100),
                published=printed(PART, network, 100, loss=loss) - printed(PART, "DD0", 100, loss=loss),
                most=-COSTLY,
                answers=False,  # of the deep net alone: says nothing of depth
            )
        for network, shallow in (("DDR1", "DSR1"), ("DDR2", "DSR2"), ("DDR4", "DSR2")):  # the last: every layer that can
            their_cost = printed("table 2", shallow, loss=loss) - printed("table 2", "DS0", loss=loss)
            costs = f"{words}, random feedback costs {network} more than {shallow}, each beside backpropagation on its own net"
            for epoch, slug, when in ((100, "", "after 100 epochs"), (200, "-end", "after 200 epochs of the deep nets")):
                id = f"depth-deeper-{network.removeprefix('DD')}-{loss}{slug}"
                their_deep_cost = printed(PART, network, epoch, loss=loss) - printed(PART, "DD0", 100, loss=loss)  # its last
                yield Claim(
                    id=id,
                    sentence=f"{costs}, {when}.",
                    quantity=_deeper(accuracy, network, shallow, epoch, loss),
                    published=their_deep_cost - their_cost,
                    most=0,
                )
                yield Claim(
                    id=f"{id}-level",
                    sentence=f"{words} and averaged over {LEVEL} epochs, {network}'s difference to backpropagation minus "
                    f"{shallow}'s, {when}.",
                    quantity=_deeper(level, network, shallow, epoch, loss),
                )
        for shallow in SHALLOW_NETWORKS[1:]:
            yield Claim(
                id=f"depth-rise-{shallow}-{loss}",
                sentence=f"{words}, {shallow} rises by this much from its mean over epochs 61 to 80 to that over the next 20.",
                quantity=level(SHALLOW, shallow, loss=loss, epoch=100) - level(SHALLOW, shallow, loss=loss, epoch=100 - LEVEL),
            )
        for count, layers in RANDOM.items():
            network, shared = f"DDR{count}", f"DDR{count}-U"
            yield Claim(
                id=f"depth-shared-R{count}-{loss}",
                sentence=f"{words}, updating B too changes the net with random feedback in its last {layers} by this much.",
                quantity=accuracy(PART, shared, loss=loss, epoch=200) - accuracy(PART, network, loss=loss, epoch=200),
                published=printed(PART, shared, 200, loss=loss) - printed(PART, network, 200, loss=loss),
            )
            yield Claim(
                id=f"depth-shared-R{count}-{loss}-level",
                sentence=f"{words} and averaged over the last {LEVEL} epochs, updating B too changes the net with random "
                f"feedback in its last {layers} by this much.",
                quantity=level(PART, shared, loss=loss) - level(PART, network, loss=loss),
            )
        floor = quantities.alone("DD0", loss=loss)
        yield Claim(
            id=f"depth-alone-{loss}",
            sentence=f"{words}, the deep net whose last layer learns alone ends at this test accuracy.",
            quantity=floor,
        )
        for count, layers in RANDOM.items():
            yield Claim(
                id=f"depth-learns-R{count}-{loss}",
                sentence=f"{words}, the deep net learns from random feedback in its last {layers}: after 200 epochs it is above "
                "the same net whose last layer learns alone.",
                quantity=accuracy(PART, f"DDR{count}", loss=loss) - floor,
                least=0,
                answers=False,
            )
    fall = {rule: _sweep(8, rule) - _sweep(2, rule) for rule in SWEEP_RULES}
    yield Claim(
        id="depth-sweep-fa",
        sentence="From two layers to eight, fixed random feedback in every layer loses more than backpropagation.",
        quantity=fall["fa"] - fall["bp"],
        most=0,
        answers=False,  # the original has no such nets
    )
    for rule, quantity in fall.items():
        yield Claim(
            id=f"depth-fall-{rule}", sentence=f"From two layers to eight, {rule} changes by this much.", quantity=quantity
        )
    for depth in (2, 8):
        yield Claim(
            id=f"depth-kp-{depth}",
            sentence=f"With {depth} layers Kolen-Pollack feedback, which decays the weights, ends this far from undecayed "
            "backpropagation.",
            quantity=_sweep(depth, "kp") - _sweep(depth, "bp"),
        )
    for network in ("DDR1", "DDR4", "DDR4-U"):
        yield Claim(
            id=f"depth-{network}-gradient",
            sentence=f"The first layer's gradient in {network} ends at this angle to backpropagation's.",
            quantity=measure("gradient_angle", PART, network, 1, loss="ce"),
        )
        yield Claim(
            id=f"depth-{network}-idle",
            sentence=f"This share of the fourth layer's units of {network} is idle at the end: no probe image moves them.",
            quantity=measure("idle", PART, network, 4, loss="ce"),
        )


def _deeper(read: Callable[..., Quantity], network: str, shallow: str, epoch: int, loss: str) -> Quantity:
    """What random feedback changes in a deep net at an epoch, minus what it changes in a shallow one after 100, each beside
    backpropagation on its own net; read: accuracy or level."""
    deep = read(PART, network, loss=loss, epoch=epoch) - read(PART, "DD0", loss=loss, epoch=epoch)
    return deep - (read(SHALLOW, shallow, loss=loss, epoch=100) - read(SHALLOW, "DS0", loss=loss, epoch=100))


def _sweep(depth: int, rule: str):
    return accuracy("sweep", f"{depth} layers, {rule}")
