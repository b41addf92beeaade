"""Training a cut model to do what the original does."""
