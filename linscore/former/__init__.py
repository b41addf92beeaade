"""Modules under the names that they had in version 0.1.0, found as `linscore.NAME`; they go with the next release."""
