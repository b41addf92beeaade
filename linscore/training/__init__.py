"""The former home of `linscore.regularization` and of the callback; its two modules go with the next release."""
