"""What the states of a sample of tokens look like at every depth: to the head, to their neighbours, to one another."""
