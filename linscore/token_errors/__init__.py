"""What a block does to single tokens that an affine map of its input misses (paper: Figure 9)."""
