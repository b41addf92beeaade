"""What is read: a text, or labelled texts."""

from __future__ import annotations

from dataclasses import dataclass

from linscore.options.field import option


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """What is read, and how it is cut into sequences and batches."""

    text: str | None = option(None, "Text: a file, a folder, jsonl, json, parquet, or - for standard input.", "PATH")
    dataset: str | None = option(None, "A `datasets` name (NAME, NAME:CONFIG or NAME:CONFIG:SPLIT), streamed.", "NAME")
    tokens: int | None = option(None, "Stop after N tokens [default: all; 1,000,000 of a dataset].", "N")
    seq_len: int | None = option(None, "Tokens in a sequence [default: the model's context, ≤ 2048].", "L")
    batch_size: int | None = option(None, "Sequences in a batch [default: 4,096 tokens; GPU 16,384].", "B")

    @property
    def given(self) -> bool:
        """Whether a text is named."""
        return self.text is not None or self.dataset is not None


@dataclass(frozen=True, kw_only=True)
class LabelledOptions:
    """Which labelled texts are read, and where text and label stand in them."""

    data: str | None = option(None, "Labelled texts: jsonl, json, csv or parquet.", "FILE")
    dataset: str | None = option(None, "A `datasets` name (NAME:CONFIG:SPLIT) instead.", "NAME")
    text_field: str = option("text", "Column of the text; several, joined: a,b.")
    label_field: str = option("label", "Column of the label.")


@dataclass(frozen=True, kw_only=True)
class StatesOptions:
    """What states in files are of."""

    model: str | None = option(None, "Name of their model, for the report and what follows [the folder].", "NAME")
    states: str | None = option(None, "Which states of the model they are, such as 1-4 [default: from 0].", "LIST")
    raw_last: bool = option(False, "The last is not behind the final norm (vLLM's): score its block.")
