"""Σx̂x̂ᵀ and Σx̂δ̂ᵀ of token features in one pass, and every figure that the same pass reads."""
