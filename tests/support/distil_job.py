"""The distillation job on a tiny decoder."""

from asked import asked
from transformers import AutoModelForCausalLM, AutoTokenizer

from linscore.embedded.shipped import EMBEDDED_MODEL
from linscore.jobs import distil as distil_job
from linscore.jobs.distil import run_distil
from linscore.surgery.record import Record
from linscore.surgery.save import save_checkpoint

run_distil = asked(run_distil)

PROJECTION = "model.layers.0.mlp.down_proj.weight"
FILES = {"config.json", "model.safetensors", "tokenizer.json", "linscore.json", "losses.jsonl", "losses.png"}


def save(folder, model, original, replacement):
    record = Record("drop", str(original), [replacement], 3, 2, 1, 1, 1, 1)
    folder.mkdir()
    save_checkpoint(folder, model, AutoTokenizer.from_pretrained(EMBEDDED_MODEL))
    record.save(folder)


def job(place, student="fused", out="out", **changes):
    given = {"text": str(place / "text.txt"), "steps": 6, "batch_size": 2, "seq_len": 16, "save_every": 2}
    return run_distil(str(place / student), out=str(place / out), device="cpu", **given | changes)


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()


def names(place):
    return {path.name for path in place.iterdir()}


def interrupt_at(monkeypatch, step):
    """Ctrl-C, as it comes while the progress of a step is shown."""

    def advance(_self, shown, _loss, _tokens):
        if shown == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(distil_job.StepProgress, "advance", advance)
