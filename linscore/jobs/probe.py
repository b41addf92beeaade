"""The job of `linscore probe`: from a model and labelled texts to a linear probe of every layer."""

from __future__ import annotations

from contextlib import nullcontext
from importlib.metadata import version

from linscore.decoder.find import find_decoder
from linscore.decoder.run import check_causal
from linscore.embedded.shipped import EMBEDDED
from linscore.files import new_folder
from linscore.machine.versions import versions
from linscore.models.load import Pretrained, load_pretrained
from linscore.probing.features import Features, check_pool, text_features
from linscore.probing.plot import plot_probing
from linscore.probing.probe import FOLDS, Probing, check_classes, probe_layers
from linscore.progress import TokenProgress
from linscore.text.labelled import Source, labelled_texts
from linscore.text.source import BATCH_TOKENS, LONGEST

__all__ = ["run_probe"]

PROBE, PICTURE = "probe.json", "probe.png"


def run_probe(
    model: str = EMBEDDED,
    *,
    data: str | None = None,
    dataset: str | None = None,
    text_field: str = "text",
    label_field: str = "label",
    pool: str = "last",
    batch_size: int | None = None,
    dtype: str = "auto",
    device: str = "auto",
    seed: int = 0,
    out: str | None = None,
) -> Probing:
    """Fit a logistic probe on every layer's states of labelled texts; the arguments are those of `linscore probe`.

    A text is read up to the model's context (2,048 tokens where the model does not say). The states of all texts are
    held at once: 4·(L + 1)·n·d bytes.

    Args:
        model: Hub name, folder or "embedded".
        data: file of labelled texts (see `read_rows`).
        dataset: `NAME`, `NAME:CONFIG` or `NAME:CONFIG:SPLIT` of `datasets` in its place.
        text_field: column of the text, or several separated by commas, joined by a newline.
        label_field: column of the label.
        pool: "last" or "mean" (see `text_features`).
        batch_size: texts that run together [4,096 tokens; GPU 16,384].
        dtype: see `load_pretrained`.
        device: see `load_pretrained`.
        seed: of the shuffle before the cross-validation.
        out: a new folder for `probe.json` and `probe.png`; nothing is written without it.

    Raises:
        LinscoreError: for any input that cannot be used; then nothing is written.
    """
    check_pool(pool)
    source = Source(data, dataset)
    texts, labels = labelled_texts(source, text_field=text_field, label_field=label_field)
    classes = check_classes(labels)
    with nullcontext() if out is None else new_folder(out) as folder:
        loaded = load_pretrained(model, dtype=dtype, device=device)
        features = _features(loaded, texts, pool, batch_size)
        probing = Probing(
            model=model,
            data=str(source),
            text_field=text_field,
            label_field=label_field,
            pool=pool,
            texts=len(texts),
            truncated=features.truncated,
            longest=_longest(loaded),
            classes=classes,
            majority=max(classes.values()) / len(texts),
            folds=FOLDS,
            seed=seed,
            width=features.states.shape[-1],
            layers=probe_layers(features.states, labels, seed=seed),
            versions=versions() | {"scikit-learn": version("scikit-learn")},
        )
        if folder is not None:
            (folder / PROBE).write_text(probing.to_json(), encoding="utf-8")
            plot_probing(probing, folder / PICTURE)
    return probing


def _longest(loaded: Pretrained) -> int:
    return loaded.context or LONGEST


def _features(loaded: Pretrained, texts: list[str], pool: str, batch_size: int | None) -> Features:
    decoder = find_decoder(loaded.model)
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
        )
