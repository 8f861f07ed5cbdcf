"""What the bench must show: ratios of two forms' seconds, each with a bound on its median over paired rounds."""

from dataclasses import dataclass
from statistics import median, quantiles

from asym.bench import roofline
from asym.bench.forms import BATCHES, EPOCH, GEMM, trainer

Seconds = dict[str, list[float]]  # of every form, one a round
MET, MISSED, UNMEASURED = "met", "missed", "not measured"


@dataclass(frozen=True)
class Goal:
    """factor * seconds of first / seconds of second <= bound (or >= it, at_least), in the median over rounds; without a second,
    the seconds themselves. The forms of one group are timed in turn, round by round, so that what slows the machine slows all."""

    group: str
    what: str
    first: str
    second: str | None
    bound: float
    at_least: bool = False
    factor: float = 1.0

    @property
    def forms(self) -> tuple[str, ...]:
        return (self.first,) if self.second is None else (self.first, self.second)

    def ratios(self, seconds: Seconds) -> list[float]:
        """One a round; empty if a form was not timed."""
        if self.second is None:
            return seconds.get(self.first, [])
        pairs = zip(seconds.get(self.first, ()), seconds.get(self.second, ()), strict=False)
        return [self.factor * first / second for first, second in pairs]

    def judge(self, seconds: Seconds) -> dict:
        """A row of the report: the median, its quartiles, the bound, and whether it is met."""
        ratios = self.ratios(seconds)
        row = {"group": self.group, "goal": self.what, "bound": self.bound, "at_least": self.at_least, "rounds": len(ratios)}
        if not ratios:
            return row | {"median": None, "low": None, "high": None, "verdict": UNMEASURED}
        low, _, high = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        middle = median(ratios)
        met = middle >= self.bound if self.at_least else middle <= self.bound
        return row | {"median": middle, "low": low, "high": high, "verdict": MET if met else MISSED}


def all_goals() -> tuple[Goal, ...]:
    """All of them, in the order of the report."""
    found = []
    for net, stock, theirs, direct in (("dense", 0.60, 0.60, 0.96), ("poggio", 0.55, 0.55, 0.80)):
        ours, look = f"{net}, fa", BATCHES[net] * 500 / EPOCH
        found += [
            Goal(net, f"{net}: fa / bp", ours, f"{net}, bp", 1.03),
            Goal(net, f"{net}: fa / stock torch bp", ours, f"{net}, stock bp", stock),
            Goal(net, f"{net}: fa / BioTorch fa", ours, f"{net}, BioTorch fa", theirs),
            Goal(net, f"{net}: dfa / bp", f"{net}, dfa", f"{net}, bp", direct),
            Goal(net, f"{net}: dfa / BioTorch dfa", f"{net}, dfa", f"{net}, BioTorch dfa", 0.55),
            Goal(net, f"{net}: measures / an epoch", f"{net}, one look", ours, 0.03, factor=look),
        ]
    share = roofline.operations(trainer("poggio", "fa", 500)) / (2 * GEMM**3)
    untied, tied, torch_form = "poggio_untied, fa", "poggio, bp", "poggio_untied, fa, torch form"
    unfolded, layer = "poggio_untied, unfold and einsum", "untied layer, fa"
    return (
        *found,
        Goal("poggio", "poggio: fa in bf16 / stock torch bp", "poggio, fa, bf16", "poggio, stock bp", 0.38),
        Goal("poggio", "poggio: share of the fp32 ceiling", "fp32 product", "poggio, fa", 0.85, at_least=True, factor=share),
        Goal("untied", "untied fa / tied bp, batch 500", f"{untied}, batch 500", f"{tied}, batch 500", 1.15),
        Goal("untied", "untied fa / tied bp, batch 128", f"{untied}, batch 128", f"{tied}, batch 128", 1.5),
        Goal("dense", "dense: shared_update / fa", "dense, shared_update", "dense, fa", 1.1),
        Goal("untied", "untied: shared_update / fa, batch 500", "poggio_untied, shared_update", f"{untied}, batch 500", 1.1),
        Goal("slow", "untied fa without a compiler / tied bp, batch 500", torch_form, f"{tied}, batch 500", 4),
        Goal("slow", "unfold and einsum / untied fa, batch 500", unfolded, f"{untied}, batch 500", 12, at_least=True),
        Goal("jax", "JAX's local convolution / ours, one layer", "untied layer, JAX's own", layer, 12, at_least=True),
        Goal("jax", "JAX by hand / ours, one layer", "untied layer, JAX by hand", layer, 8, at_least=True),
        Goal("data", "data path / DataLoader", "data path", "DataLoader", 0.25),
        Goal("overhead", "a run beside its epochs, first in a process (s)", "first run", None, 1.5),
        Goal("overhead", "a run beside its epochs, in a warm process (s)", "warm run", None, 0.1),
    )
