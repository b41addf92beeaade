"""The former home of `linscore.regularization` and of the callback; its two modules are here."""
