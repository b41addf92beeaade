"""Scores of models, which several figures are of."""

from __future__ import annotations

from typing import Any

from benchmarks.paper.setting import Run, Setting

# Those of figure 1, by their names on the Hub.
MODELS = (
    *("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-chat-hf", "meta-llama/Llama-2-13b-hf"),
    *("meta-llama/Meta-Llama-3-8B", "mistralai/Mistral-7B-v0.1", "EleutherAI/gpt-j-6b"),
    *("facebook/opt-125m", "facebook/opt-1.3b", "facebook/opt-13b", "facebook/opt-30b"),
    *("openai-community/gpt2", "openai-community/gpt2-large", "openai-community/gpt2-xl"),
    *("tiiuae/falcon-7b", "tiiuae/falcon-7b-instruct", "EleutherAI/pythia-70m", "EleutherAI/pythia-2.8b"),
    *("bigscience/bloom-560m", "bigscience/bloom-1b1", "bigscience/bloom-3b", "bigscience/bloom-7b1"),
    *("TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T",),
    *("microsoft/Phi-3-mini-4k-instruct", "microsoft/Phi-3-mini-128k-instruct"),
)
SHIPPED = ("embedded", "embedded-cosine")
FOLDS = "4"
TOKENS = "65536"
ON_SHIPPED = "two decoders of 2.9 M, 65,536 tokens of held-out Python, 4 folds"
WEB = ("--dataset", "HuggingFaceFW/fineweb:sample-10BT", "--tokens", "1000000")


def score_runs(at: Setting) -> list[Run]:
    """A score of each model."""
    text = WEB if at.full else ("--tokens", TOKENS)
    models = MODELS if at.full else SHIPPED
    return [Run(f"scores/{name.replace('/', '-')}", ("score", name, *text, "--folds", FOLDS)) for name in models]


def scored(at: Setting) -> dict[str, Any]:
    """The reports, by the names of the models."""
    return {run.arguments[1]: at.read(run, "report.json") for run in score_runs(at)}
