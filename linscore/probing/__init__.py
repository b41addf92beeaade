"""Linear probes: what the states of each layer say about a text, read out by logistic regression."""
