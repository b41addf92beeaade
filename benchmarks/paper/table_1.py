"""Table 1: what fine-tuning does to linearity without the residual."""

from __future__ import annotations

from typing import Any

from benchmarks.paper.claims import UNDECIDED, Claim, Part, Seen, beyond, script
from benchmarks.paper.setting import Run, Setting

MODELS = (
    *("facebook/opt-125m", "facebook/opt-1.3b", "facebook/opt-2.7b", "meta-llama/Llama-2-7b-hf"),
    *("openai-community/gpt2", "openai-community/gpt2-large", "openai-community/gpt2-xl"),
)
TASKS = {
    "MultiRC": ("--dataset", "aps/super_glue:multirc:train", "--text-field", "paragraph,question,answer"),
    "BoolQ": ("--dataset", "aps/super_glue:boolq:train", "--text-field", "question,passage"),
    "CB": ("--dataset", "aps/super_glue:cb:train", "--text-field", "premise,hypothesis"),
    "reward": ("--dataset", "Anthropic/hh-rlhf::train", "--task", "reward"),
}
SEEDS = 3


def runs(at: Setting) -> list[Run]:
    """Each model on each task, over seeds."""
    if at.full:
        asked = {(model, task): given for model in MODELS for task, given in TASKS.items()}
    else:
        once = ("--epochs", "1", "--tokens", "16384", "--longest", "64")
        asked = {
            ("embedded", "which file"): ("--data", at.labelled, *once),
            ("embedded", "reward"): ("--data", at.pairs, "--task", "reward", *once),
        }
    return [
        Run(f"fine-tuned/{model.replace('/', '-')}-{task.replace(' ', '-')}.json", _asked(model, given))
        for (model, task), given in asked.items()
    ]


def _asked(model: str, given: tuple[str, ...]) -> tuple[str, ...]:
    return ("finetune-delta", model, *given, "--seeds", str(SEEDS))


def found(at: Setting) -> Any:
    """By model and task the change of the mean over blocks, and its spread over seeds."""
    rows = {}
    for run in runs(at):
        delta = at.read(run)["delta"]["linearity_no_residual_heldout"]["mean"]
        rows[run.result.removeprefix("fine-tuned/").removesuffix(".json")] = (delta["mean"], delta["std"])
    return rows


def rises(rows: Any, full: bool) -> Seen:
    """Every task's change, against its error over seeds."""
    verdicts = {beyond(mean, std / SEEDS**0.5) for mean, std in rows.values()}
    here = "; ".join(f"{name} {mean:+.4f} ± {std:.4f}" for name, (mean, std) in rows.items())
    on = "the paper's models and tasks, 3 seeds" if full else "240 pieces of held-out Python, one epoch, 3 seeds"
    return Seen(f"change: {here}", on, verdicts.pop() if len(verdicts) == 1 else UNDECIDED)


PART = Part(
    "Table 1",
    "what fine-tuning does to linearity without the residual",
    runs,
    found,
    (Claim("Fine-tuning makes blocks more linear, in every model and task.", rises),),
)

if __name__ == "__main__":
    script(PART)
