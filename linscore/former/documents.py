"""Moved: `read_documents` and `Document` are in `linscore.text.documents`, datasets in `linscore.text.hub`."""

from linscore.text.documents import Document, read_documents
from linscore.text.hub import load_dataset_rows, read_dataset

__all__ = ["Document", "load_dataset_rows", "read_dataset", "read_documents"]
