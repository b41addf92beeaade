"""How large and how fast what `linscore compress` makes of a decoder is, beside the whole one: a table.

    python -m benchmarks.studies.compress_speed FOLDER…                # of the built-in decoder, as compress saved them
    python -m benchmarks.studies.compress_speed FOLDER… --model NAME   # of another

The same choices stand in a random Llama of some 100 M parameters too, its ranks in proportion to its
width: in the built-in decoder much of the time is Python's, not that of products. Models are timed in turns, each round
gives a ratio, medians are shown. Results go to benchmarks/results/compress/speed-NAME.json and .md.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

import linscore
from benchmarks import results
from benchmarks.studies.compress_rows import FOLDER
from linscore.compression.choices import Choice, Form
from linscore.compression.forms import fit_form
from linscore.compression.losses_file import choice_of
from linscore.decoder.cached import kv_bytes_per_token
from linscore.embedded.shipped import EMBEDDED
from linscore.jobs.compress import RESULT
from linscore.machine.timing import interleaved
from linscore.statistics.moments import Moments
from linscore.statistics.ridge import Regression
from linscore.surgery.linearize import replace_units

# Of the built-in decoder's proportions, and of a size at which products take the time.
LARGE = {"hidden_size": 896, "intermediate_size": 2400, "num_attention_heads": 14, "num_key_value_heads": 2}
LARGE |= {"vocab_size": 16_000, "max_position_embeddings": 2048, "tie_word_embeddings": True}
ROWS_A_FEATURE = 3  # random rows that maps of the random decoder are fitted on
UNCUT = "uncut"


def timed(models: Mapping[str, PreTrainedModel], prompt: int, new: int, rounds: int) -> list[dict[str, Any]]:
    """Sizes of models and their rates, that of the first at the head: prompts read, and tokens added one by one."""
    whole, *others = models
    calls = {name: _calls(model, prompt, new) for name, model in models.items()}
    found = {name: _sizes(name, model) for name, model in models.items()}
    for at, (what, tokens) in enumerate((("prefill", prompt), ("decode", new))):
        timing = interleaved(calls[whole][at], {name: calls[name][at] for name in others}, rounds=rounds)
        for name, one in found.items():
            seconds = timing.median if name == whole else timing.peer_median(name)
            one[what] = tokens / seconds
            one[f"{what}_ratio"] = 1.0 if name == whole else 1 / timing.ratio(name)
    return list(found.values())


def _sizes(name: str, model: PreTrainedModel) -> dict[str, Any]:
    decoder = linscore.find_decoder(model)
    held = [sum(p.numel() for p in module.parameters()) for module in (model, decoder.blocks)]
    return {"model": name, "parameters": held[0], "of_blocks": held[1], "kv_bytes": kv_bytes_per_token(decoder)}


def _calls(model: PreTrainedModel, prompt: int, new: int) -> tuple[Any, Any]:
    """Reading a prompt, and adding tokens to one that is in the cache."""
    ids = torch.randint(3, model.config.vocab_size, (1, prompt), generator=torch.Generator().manual_seed(0))
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"  # by release
    with torch.no_grad():
        after = model(ids, use_cache=True)[name]

    @torch.no_grad()
    def prefill() -> None:
        model(ids, use_cache=True, logits_to_keep=1)

    @torch.no_grad()
    def decode() -> None:
        cache = copy.deepcopy(after)
        for _ in range(new):
            model(ids[:, :1], use_cache=True, **{name: cache})

    return prefill, decode


def scaled(choice: Choice, width: int, to: int) -> dict[Any, Form]:
    """A choice with its ranks in proportion to another width."""
    return {unit: Form(form.kind, form.rank and form.rank * to // width) for unit, form in choice.items()}


def large(choices: Mapping[str, Choice], width: int, depth: int) -> Iterator[tuple[str, PreTrainedModel]]:
    """A random Llama, and the same cut by each choice: with random maps, which take as long as others."""
    config = LlamaConfig(num_hidden_layers=depth, **LARGE)  # type: ignore[arg-type]
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=False).eval()
    yield UNCUT, model
    to, moments = config.hidden_size, Moments(config.hidden_size)
    moments.update(torch.randn(ROWS_A_FEATURE * to, to), delta=torch.randn(ROWS_A_FEATURE * to, to))
    regression = Regression.of(moments)
    for name, choice in choices.items():
        forms = scaled(choice, width, to)
        made = {form: fit_form(regression, form, None) for form in {*forms.values()} if form.kind != "drop"}
        yield name, replace_units(model, {unit: made.get(form) for unit, form in forms.items()})


def markdown(found: Mapping[str, Any]) -> str:
    """A table a decoder: sizes, rates, and how many times the rate of the whole one."""
    lines = [f"# How fast {found['about']['model']} is once it is compressed", ""]
    lines += [f"- {name}: {value}" for name, value in (found["about"] | found["facts"]).items()]
    for title, rows in found["tables"].items():
        lines += ["", f"## {title}", "", "| | parameters | of blocks | KV bytes a token | prefill | decode |"]
        lines += ["|---|---|---|---|---|---|"]
        for row in rows:
            rates = [f"{row[what]:,.0f} tokens/s, {row[f'{what}_ratio']:.2f}×" for what in ("prefill", "decode")]
            cells = [row["model"], f"{row['parameters']:,}", f"{row['of_blocks']:,}", f"{row['kv_bytes']:,}", *rates]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _saved(folder: Path) -> tuple[str, Choice]:
    """The budget that a folder was made for, and the choice."""
    result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    return result["budget"], choice_of(result["steps"][-1]["choice"])


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="what compress has saved of the model")
    parser.add_argument("--model", default=EMBEDDED)
    parser.add_argument("--prompt", type=int, default=256, help="tokens")
    parser.add_argument("--new", type=int, default=32, help="tokens added")
    parser.add_argument("--rounds", type=int, default=7)
    return parser.parse_args(arguments)


def main() -> None:
    """Time the whole decoder and what was made of it, and write the tables."""
    options = _options()
    whole, how = linscore.load(options.model, device="cpu"), (options.prompt, options.new, options.rounds)
    choices = dict(map(_saved, options.folders))
    saved = {name: linscore.load(str(one), device="cpu") for name, one in zip(choices, options.folders, strict=True)}
    decoder, name = linscore.find_decoder(whole), Path(options.model).name
    tables = {name: timed({UNCUT: whole, **saved}, *how)}
    made = dict(large(choices, decoder.width, len(decoder.blocks)))
    tables["A random Llama, cut by the same choices"] = timed(made, *how)
    about = {"model": name, "prompt": options.prompt, "added": options.new, "rounds": options.rounds}
    found = {"about": about, "facts": results.facts(), "tables": tables}
    path = FOLDER / f"speed-{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(found), encoding="utf-8")
    print(path, path.with_suffix(".md"), sep="\n")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
