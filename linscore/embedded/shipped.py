"""Where what ships with linscore lies: decoders by name, and a text that they have never seen.

The regularized sibling is for comparisons and as large as all the rest, so only the repository has it, not the package.
"""

from __future__ import annotations

from pathlib import Path

EMBEDDED = "embedded"
EMBEDDED_MODEL = Path(__file__).with_name("model")
EMBEDDED_TEXT = Path(__file__).with_name("heldout")
SHIPPED = {EMBEDDED: EMBEDDED_MODEL, "embedded-cosine": EMBEDDED_MODEL.with_name("cosine")}
