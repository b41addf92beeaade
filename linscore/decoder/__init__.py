"""Reading the residual stream of a running decoder."""
