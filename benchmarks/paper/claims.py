"""What the paper says, what was measured here, and whether they agree: docs/paper.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Found = Mapping[str, Any]
AGREES, DISAGREES = "agrees", "disagrees"


class Claim(NamedTuple):
    """A sentence of the paper, where it stands, and how a result is held against it."""

    where: str
    says: str
    measured: Callable[[Any], str]
    holds: Callable[[Any], bool]


CLAIMS = (
    Claim(
        "Figure 1",
        "Blocks are nearly linear: scores with residual are close to 1.",
        lambda found: (
            ", ".join(f"{name} {value:.3f}" for name, value in found.items()) + ", means over blocks, held out"
        ),
        lambda found: min(found.values()) > 0.9,
    ),
    Claim(
        "Figure 2",
        "While a decoder learns, linearity without residual falls.",
        lambda found: f"{found['first']:.3f} early, {found['last']:.3f} at the end, mean of {found['seeds']} seeds",
        lambda found: found["last"] < found["first"],
    ),
    Claim(
        "Figure 3",
        "What a block adds is short beside what enters it.",
        lambda found: ", ".join(f"{name} {value:.2f}" for name, value in found.items()) + ", median ‖δ‖/‖x‖ of blocks",
        lambda found: max(found.values()) < 0.5,
    ),
    Claim(
        "Figure 4",
        "Under the cosine regularizer blocks end up less linear than without.",
        lambda found: f"without residual {found['none']:.3f} plain, {found['cosine']:.3f} regularized",
        lambda found: found["cosine"] < found["none"],
    ),
    Claim(
        "Figure 5",
        "Probes read more off a regularized decoder's states.",
        lambda found: ", ".join(f"{name} {value:.3f}" for name, value in found.items()) + ", best layer",
        lambda found: found["embedded-cosine"] > found["embedded"] + 0.01,
    ),
    Claim(
        "Figures 6 to 8",
        "The most linear blocks go at a small cost, less if linear maps replace them, least once distilled.",
        lambda found: (
            "; ".join(
                f"{name}: " + ", ".join(f"{cost:+.3f}" for cost in costs.values()) for name, costs in found.items()
            )
            + " nats a token for 1, 2, 3 blocks"
        ),
        lambda found: all(
            found["distilled"][count] < found["replaced"][count] < found["dropped"][count] for count in found["dropped"]
        ),
    ),
    Claim(
        "Figure 9",
        "Few tokens are treated far less linearly than the rest.",
        lambda found: f"the worst 1 % miss {found['99 % over 50 %']:.1f} times what the median misses",
        lambda found: found["99 % over 50 %"] > 3,
    ),
    Claim(
        "Table 1",
        "Fine-tuning makes blocks more linear.",
        lambda found: f"change of the mean {found['change']:+.4f} ± {found['error']:.4f} over seeds",
        lambda found: found["change"] > 2 * found["error"],
    ),
    Claim(
        "Table 2",
        "A decoder trained with the cosine regularizer predicts better.",
        lambda found: ", ".join(f"{kind} {loss:.3f}" for kind, loss in found.items()) + " nats a token, held out",
        lambda found: found["cosine"] < found["none"],
    ),
)
NOT_MEASURED = {
    "Table 2, tasks": "ten tasks through lm-eval: `--full`, with a Hub",
    "Table 3": "a judge of generated stories: no endpoint is called here",
}


def table(found: Mapping[str, Any]) -> str:
    """A line for each claim whose result is there, then those that were not measured."""
    lines = ["| | the paper | here | |", "|---|---|---|---|"]
    for claim in CLAIMS:
        if claim.where in found:
            result = found[claim.where]
            verdict = AGREES if claim.holds(result) else DISAGREES
            lines.append(f"| {claim.where} | {claim.says} | {claim.measured(result)} | {verdict} |")
    lines += [f"| {where} | | {why} | not measured |" for where, why in NOT_MEASURED.items()]
    return "\n".join(lines)
