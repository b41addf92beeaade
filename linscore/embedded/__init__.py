"""Decoders and held-out text that ship with linscore (see NOTICE); `linscore train --config embedded` trains them."""
