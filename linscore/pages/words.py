"""What figures are called on a page, and what they mean."""

from __future__ import annotations

# The key of report.json, in the order in which one reads: its name, and its meaning in half a line.
FIGURES = {
    "linearity_heldout": ("linearity, held out", "share of what leaves the block that an affine map explains"),
    "linearity_no_residual_heldout": ("without residual, held out", "the same for what the block adds"),
    "linearity": ("linearity, in-sample", "fitted and measured on the same tokens"),
    "linearity_no_residual": ("without residual, in-sample", "the same for what the block adds"),
    "expected_loss": ("expected loss", "nats a token that leaving the block out is expected to cost"),
    "block_influence": ("block influence", "1 − cosine of what enters and what leaves, mean over tokens"),
    "angular_distance": ("angular distance", "angle between what enters and what leaves, in units of π"),
    "delta_ratio": ("‖δ‖/‖x‖", "length of what the block adds over that of what enters"),
    "norm_x": ("‖x‖", "length of what enters, mean over tokens"),
    "norm_y": ("‖y‖", "length of what leaves, mean over tokens"),
    "norm_delta": ("‖δ‖", "length of what the block adds, mean over tokens"),
    "relative_error": ("relative error", "what the affine map misses, over the spread of what leaves"),
    "procrustes": ("Procrustes", "share explained by rotation, reflection and scale alone"),
    "cka": ("linear CKA", "similarity of what enters and what leaves, up to rotation and scale"),
    "cosine": ("cosine", "of what enters and what leaves, mean over tokens"),
    "effective_rank": ("effective rank", "exp of the entropy of the eigenvalues of what enters"),
    "participation_ratio": ("participation ratio", "(Σλ)²/Σλ² of what enters"),
    "anisotropy": ("anisotropy", "share of the largest eigenvalue of what enters"),
    "rounding_share": ("rounding share", "part of what the block adds that 16-bit rounding makes"),
    "linearity_heldout_spread": ("spread of linearity", "over the folds"),
    "linearity_no_residual_heldout_spread": ("spread without residual", "over the folds"),
    "linearity_no_residual_unrelated": ("unrelated states", "score without residual of unrelated states"),
    "linearity_heldout_without_heavy": ("linearity, held out, no sinks", "heavy tokens left out"),
    "linearity_no_residual_heldout_without_heavy": ("without residual, held out, no sinks", "heavy tokens left out"),
    "unexplained": ("missed", "part of what the block adds that its map misses, held out: mean over tokens"),
    "explained_by_token": ("known by the token", "part of what the block adds that its mean by token explains"),
    "tokenwise": ("known by the first state", "part of what the block adds that the state entering block 0 explains"),
    "linear": ("known by the state", "part of what the block adds that the state entering it explains"),
    "tail_index": ("tail index", "Hill's α of the errors: the smaller, the fewer tokens carry them"),
    "loss": ("loss", "nats a token of the next one, read off here by the final norm and the head"),
    "loss_without_norm": ("loss without norm", "the same without the final norm"),
    "agrees": ("agrees", "share of tokens whose likeliest next one is already the model's"),
    "dimension": ("intrinsic dimension", "by TwoNN"),
    "cka_debiased": ("debiased CKA", "the same, 0 for unrelated states however few the tokens"),
    "heavy_rows": ("heavy tokens", "far from all others: attention sinks"),
    "rows": ("tokens", "that count"),
    "parameters": ("parameters", "that the block holds"),
    "parameters_gone": ("parameters gone", "share of the whole model's"),
    "cache_gone": ("cache gone", "share of the bytes that a token takes in the cache"),
    "added": ("loss added", "nats a token, against the whole model on the same text"),
    "kl": ("KL", "from the original, nats a token"),
    "lm": ("loss of the text", "nats a token of the next one"),
    "kv_bytes": ("cache, bytes a token", "keys and values that the block keeps of each token"),
}  # fmt: skip

# The tables of a page, and the files they are saved to.
TABLES = {
    "blocks": "blocks",
    "parts": "attention and MLP",
    "spans": "spans",
    "looks": "scores over tokens read",
    "steps": "checkpoints",
    "cuts": "cuts and what they cost",
    "trained": "steps of distillations",
    "knowing": "errors of single tokens",
    "shares": "histograms of tokens",
    "worst": "tokens that are missed the most",
    "depths": "states at every depth",
    "pairs": "similarity of depths",
    "types": "entries of the vocabulary that are missed the most",
}


def known(rows: list[dict[str, object]]) -> dict[str, tuple[str, str]]:
    """Those figures of `FIGURES` that some row has."""
    return {name: words for name, words in FIGURES.items() if any(row.get(name) is not None for row in rows)}
