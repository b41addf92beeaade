"""What fine-tuning does to the linearity of a decoder's blocks (paper: table 1)."""
