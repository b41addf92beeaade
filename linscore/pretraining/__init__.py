"""Training decoders from nothing, with or without a regularizer between their blocks (paper: section 4)."""
