"""What several processes share, and what comes of it without what no two runs have alike."""

import json
import os
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tiny_models import VOCABULARY, tiny
from torch import Tensor

from benchmarks.studies.sweep_stream import PutAside
from linscore.decoder.find import find_decoder, token_embedding
from linscore.distillation.folder import CURVE
from linscore.files.curve import read_curve
from linscore.files.run_folder import RunFolder
from linscore.jobs.distil import run_distil
from linscore.jobs.dynamics import run_dynamics
from linscore.jobs.evaluate import run_evaluate
from linscore.jobs.finetune_delta import run_finetune_delta
from linscore.jobs.probe import run_probe
from linscore.machine.processes import ALONE, Processes, join
from linscore.options.cut import EvaluateOptions
from linscore.options.place import KeepOptions
from linscore.options.score import ScoreOptions
from linscore.options.text import LabelledOptions, TextOptions
from linscore.options.training import DistilOptions, FinetuneOptions, TrainingOptions
from linscore.scoring.collect import Collector
from linscore.scoring.kept import KEPT, Settings, begin, keeping
from linscore.scoring.score import score_decoder
from linscore.scoring.streamed import Streamed
from linscore.spans import Span

SINK, BROKEN, SKIPPED = 4, 5, 6  # token ids: far from all others, not finite, and not to count


def _batch(seed: int, rows: int = 3, length: int = 11) -> Tensor:
    return torch.randint(7, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def _padded(seed: int) -> dict[str, Tensor]:
    mask = torch.ones(3, 11, dtype=torch.long)
    mask[0, 7:] = mask[2, :4] = 0
    return {"input_ids": _batch(seed), "attention_mask": mask}


def _odd() -> list[Tensor]:
    """The first batch does not count, the third has no finite row, only the sixth has a sink."""
    batches = [_batch(seed) for seed in range(9)]
    batches[0][:], batches[2][:], batches[5][:, 3], batches[7][0, 4] = SKIPPED, BROKEN, SINK, BROKEN
    return batches


FUSED = ScoreOptions(spans=[Span(0, 1), Span(1, 2)], fuse=[Span(1, 2)], fuse_output=[Span(2, 2)], sub_blocks=True)
CASES: list[tuple[str, ScoreOptions, list[Any]]] = [
    ("llama", FUSED, [_batch(seed, rows=7 + seed % 3) for seed in range(9)]),
    ("gpt2", ScoreOptions(skip_first=1, folds=3), [_padded(seed) for seed in range(8)]),
    ("gemma2", ScoreOptions(folds=1, blocks=[1], precision="exact"), [_batch(0)]),
    ("opt", ScoreOptions(skip_tokens=[SKIPPED]), _odd()),
]


def reports(processes: Processes = ALONE, *, streamed: bool = False) -> list[dict[str, Any]]:
    """Of each case; `seconds` and `run` left out, and of those that are `streamed` the looks between groups."""
    found = []
    for family, options, batches in CASES:
        model = tiny(family)
        with torch.no_grad():
            token_embedding(model).weight[SINK] *= 3000
            token_embedding(model).weight[BROKEN] = float("nan")
        decoder = find_decoder(model)
        room = 4 * 7 * 11 * decoder.width * 4  # bytes of some four batches
        way = Streamed(decoder, PutAside(decoder.blocks), room=room) if streamed else None
        report = score_decoder(decoder, batches, options, processes=processes, streamed=way).to_dict()
        left_out = ("seconds", "run", "curve") if streamed else ("seconds", "run")
        found.append({name: value for name, value in report.items() if name not in left_out})
    return found


def kept_report(out: Path, processes: Processes = ALONE, *, resume: bool = False) -> dict[str, Any]:
    """Of the first case, streamed in one group and saved after every block; what is left out is as in `reports`."""
    family, options, batches = CASES[0]
    decoder = find_decoder(tiny(family))
    way = Streamed(decoder, PutAside(decoder.blocks), room=1 << 30)
    out.mkdir(exist_ok=True)
    with ExitStack() as held:
        kept = None
        if processes.first:
            run = held.enter_context(RunFolder(out / KEPT, Settings.of("model", options)))
            run.resume(Settings) if resume else begin(run)
            kept = held.enter_context(keeping(run, KeepOptions(save_minutes=1e-9)))
        report = score_decoder(decoder, batches, options, processes=processes, streamed=way, kept=kept).to_dict()
    return {name: value for name, value in report.items() if name not in ("seconds", "run", "curve")}


def shared_reports(begun: Path) -> list[Any]:
    """For one of several processes: the reports, and how many batches it ran for them; then streamed, with groups.

    Last what comes of the run in the folder `begun`, which one process has left between two blocks.
    """
    torch.set_num_threads(1)
    ran = []
    add = Collector.add_parts
    Collector.add_parts = lambda self, parts, *_: ran.append(parts) or add(self, parts)  # type: ignore[method-assign]
    whole = reports(join()), len(ran)
    streamed = reports(join(), streamed=True), len(ran) - whole[1]
    Collector.add_parts = add  # type: ignore[method-assign]
    return [whole, streamed, kept_report(begun, join(), resume=True)]


def shared_jobs(models: str, folder: str) -> list[Any]:
    """What jobs find of the tiny models in `models`, by all processes or the only one.

    An evaluation, a series, probes, one fine-tuning by batches that share out evenly, and a distillation.
    """
    torch.set_num_threads(1)
    model, text = f"{models}/original", f"{models}/text.txt"
    rows = [json.dumps({"text": f"def f{n}(x): return {n % 2}", "label": n % 2}) for n in range(20)]
    data = Path(folder, f"rows{os.environ.get('RANK', '')}.jsonl")
    data.write_text("\n".join(rows), encoding="utf-8")
    (one,) = run_evaluate([model], text=TextOptions(text=text, batch_size=2), evaluating=EvaluateOptions(window=16))
    series = run_dynamics([model], text=TextOptions(text=text, seq_len=16, batch_size=2), out=f"{folder}/series")
    probes = run_probe(model, labelled=LabelledOptions(data=str(data)), reading=TextOptions(batch_size=2))
    timed = {"seconds", "tokens_per_second"}
    scored = series and [asdict(one) for one in series.scored]
    labelled, tuning = LabelledOptions(data=str(data)), FinetuneOptions(seeds=1, epochs=2)
    delta = run_finetune_delta(model, labelled=labelled, finetuning=tuning, scored=TextOptions(batch_size=8))
    reading = TextOptions(text=text, seq_len=16, batch_size=4)
    towards, training = DistilOptions(hidden=0.0), TrainingOptions(steps=3)
    done = run_distil(f"{models}/fused", out=f"{folder}/new", text=reading, towards=towards, training=training)
    learned = (
        delta and json.loads(delta.to_json()),
        done and read_curve(done.out / CURVE),
        done and done.record.distilled,
    )
    one = {name: value for name, value in asdict(one).items() if name not in timed}
    return [one, scored, asdict(probes)["layers"], learned]
