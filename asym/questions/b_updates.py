"""Does it help to update B as the weight is updated? Fixed, shared and Kolen-Pollack feedback on every net, over the decay."""

import math
from collections.abc import Iterator

from asym.cells import LAYERS, Cell, cell, kind, rules_of
from asym.claims import Claim, printed
from asym.quantities import accuracy, jumps, measure

ASKS = "Does updating the feedback like the weight help?"
ANSWER = "yes: it stabilises many cases; given enough training the results are similar"
FIGURE = "fig-b-updates-curves"  # the page's main evidence
DECAYS = (0.01, 0.1, 1.0)  # with Adam's 1e-3, W - B loses 0.1, 1 and 10 % in an epoch of 100 steps
NETS = {  # part: the net with fixed feedback, its control, the question and table they are from, the longest training there
    "dense, shallow": ("DSR2", "DS0", ("dense", "table 2"), {"epochs": 100}),
    "dense, deep": ("DDR4", "DD0", ("depth", "table 4"), {"epochs": 200}),
    "conv": ("PGR2", "PG0", ("conv_dense_head", "table 6"), {"epochs": 300}),
    "untied": ("PG-Untie-R2", "PG-Untie", ("untied_conv", "table 10"), {"epochs": 200, "activation": "tanh"}),
}
SIMILAR = 5.0  # points


def kp(network: str, decay: float) -> str:
    return f"{network}-KP {decay:g}"


def decayed(control: str, decay: float) -> str:
    return f"{control}, decay {decay:g}"


def cells() -> Iterator[Cell]:
    for part, (network, control, of, options) in NETS.items():
        options = options | {"of": of}
        for name in (control, network, f"{network}-U"):
            yield cell(part, name, **options)
        for decay in DECAYS:
            yield cell(part, network, name=kp(network, decay), asymmetric="kp", weight_decay=decay, **options)
        for decay in DECAYS:
            yield cell(part, control, name=decayed(control, decay), weight_decay=decay, **options)


def claims() -> Iterator[Claim]:
    for part, (network, control, (_, table), options) in NETS.items():
        slug, shared, longest = part.replace(", ", "-"), f"{network}-U", options["epochs"]
        theirs = {name: printed(table, name, loss="ce") for name in (network, shared, control)}
        reads = {name: accuracy(part, name) for name in (network, shared, control)}
        for layer in _asymmetric_layers(network):
            yield Claim(
                id=f"b_updates-invariant-{slug}-{layer}",
                sentence=f"Shared updates leave W - B as it was: in layer {layer} of {shared} it moves by this share of itself.",
                quantity=measure("drift", part, shared, layer),
            )
        yield Claim(
            id=f"b_updates-helps-{slug}",
            sentence=f"Shared updates make {network} better.",
            quantity=reads[shared] - reads[network],
            published=theirs[shared] - theirs[network],
            least=0,
        )
        yield Claim(
            id=f"b_updates-stable-{slug}",
            sentence=f"Shared updates make {network} more stable: over the last 20 epochs its test accuracy jumps less.",
            quantity=jumps(part, shared) - jumps(part, network),
            most=0,
        )
        yield Claim(
            id=f"b_updates-similar-{slug}",
            sentence=f"Trained for the original's longest, {longest} epochs, {shared} is within {SIMILAR:.0f} points of "
            f"{control} or above it.",
            quantity=reads[shared] - reads[control],
            published=theirs[shared] - theirs[control],
            least=-SIMILAR,
        )
        decaying = [*(kp(network, decay) for decay in DECAYS), *(decayed(control, decay) for decay in DECAYS)]
        for name in (control, network, shared, *decaying):
            yield Claim(
                id=f"b_updates-accuracy-{slug}-{name.replace(',', '').replace(' ', '-')}",
                sentence=f"{name} ends at this test accuracy.",
                quantity=accuracy(part, name),
                published=theirs.get(name, math.nan),
            )
        for decay in DECAYS:
            ours = accuracy(part, kp(network, decay))
            yield Claim(
                id=f"b_updates-kp-{slug}-{decay:g}",
                sentence=f"Kolen-Pollack feedback with decay {decay:g} ends this far from backpropagation with the same decay.",
                quantity=ours - accuracy(part, decayed(control, decay)),
            )
            yield Claim(
                id=f"b_updates-kp-shared-{slug}-{decay:g}",
                sentence=f"Kolen-Pollack feedback with decay {decay:g} ends this far from shared updates.",
                quantity=ours - reads[shared],
            )
            yield Claim(
                id=f"b_updates-kp-angle-{slug}-{decay:g}",
                sentence=f"The last layer's weight angle ends here under Kolen-Pollack feedback with decay {decay:g}.",
                quantity=measure("weight_angle", part, kp(network, decay), _asymmetric_layers(network)[-1]),
            )


def _asymmetric_layers(network: str) -> list[int]:
    """The layers with feedback, counted from 1."""
    return [index + 1 for index, rule in enumerate(rules_of(network, LAYERS[kind(network)])) if rule != "bp"]
