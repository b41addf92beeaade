"""What an affine map misses of each token."""
