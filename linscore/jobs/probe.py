"""The job of `linscore probe`: from a model and labelled texts to a linear probe of every layer."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from importlib.metadata import version

from linscore.decoder.run import check_causal
from linscore.embedded.shipped import EMBEDDED
from linscore.files.whole import new_folder
from linscore.jobs.together import share
from linscore.machine.extras import need
from linscore.machine.processes import Processes
from linscore.machine.versions import versions
from linscore.models.load import Pretrained, load_pretrained
from linscore.options.place import PlaceOptions
from linscore.options.text import LabelledOptions, TextOptions
from linscore.options.training import PROBE_TRAINING, ProbeOptions, TrainingOptions
from linscore.pictures import file_of
from linscore.probing.features import Features, check_pool, text_features
from linscore.probing.plot import plot_probing
from linscore.probing.probe import FOLDS, Probing, check_classes, probe_layers
from linscore.progress import TokenProgress
from linscore.text.labelled import labelled_texts
from linscore.text.source import BATCH_TOKENS, LONGEST, labelled_source

__all__ = ["run_probe"]

PROBE, PICTURE = "probe.json", "probe"


def run_probe(
    model: str = EMBEDDED,
    *,
    labelled: LabelledOptions | None = None,
    probing: ProbeOptions | None = None,
    reading: TextOptions | None = None,
    training: TrainingOptions = PROBE_TRAINING,
    place: PlaceOptions | None = None,
    out: str | None = None,
) -> Probing:
    """Fit a logistic probe on every layer's states of labelled texts (`reading`: texts that run together).

    A text is read up to the model's context (2,048 tokens where the model does not say). The states of all texts are
    held at once: 4·(L + 1)·n·d bytes. Without `out` nothing is written, else `probe.json` and `probe.png`. Several
    processes (torchrun) share texts and layers, the first writes, and all return the same.

    Raises:
        LinscoreError: for any input that cannot be used; then nothing is written.
    """
    need("probe", "probing", "sklearn", "matplotlib")
    labelled, place, pool = labelled or LabelledOptions(), place or PlaceOptions(), (probing or ProbeOptions()).pool
    check_pool(pool)
    source, seed = labelled_source(labelled), training.seed or 0
    texts, labels = labelled_texts(source, text_field=labelled.text_field, label_field=labelled.label_field)
    classes = check_classes(labels)
    processes = share(place)
    with new_folder(out) if out is not None and processes.first else nullcontext() as folder:
        loaded = load_pretrained(model, **asdict(place))
        features = _features(loaded, texts, pool, (reading or TextOptions()).batch_size, processes)
        found = Probing(
            model=model,
            data=str(source),
            text_field=labelled.text_field,
            label_field=labelled.label_field,
            pool=pool,
            texts=len(texts),
            truncated=features.truncated,
            longest=_longest(loaded),
            classes=classes,
            majority=max(classes.values()) / len(texts),
            folds=FOLDS,
            seed=seed,
            width=features.states.shape[-1],
            layers=probe_layers(features.states, labels, seed=seed, processes=processes),
            versions=versions() | {"scikit-learn": version("scikit-learn")},
        )
        if folder is not None:
            (folder / PROBE).write_text(found.to_json(out), encoding="utf-8")
            plot_probing(found, folder / file_of(PICTURE))
    return found


def _longest(loaded: Pretrained) -> int:
    return loaded.context or LONGEST


def _features(
    loaded: Pretrained, texts: list[str], pool: str, batch_size: int | None, processes: Processes
) -> Features:
    decoder = loaded.decoder
    check_causal(decoder)
    with TokenProgress(None, "reading") as progress:
        return text_features(
            decoder,
            loaded.tokenizer,
            texts,
            pool=pool,
            longest=_longest(loaded),
            batch_tokens=BATCH_TOKENS[loaded.model.device.type],
            batch_size=batch_size,
            progress=progress.advance,
            processes=processes,
        )
