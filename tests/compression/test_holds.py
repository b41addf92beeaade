"""What units hold; the oracle is a model that was cut for good."""

import pytest
from decoders import decoder_of, sub_blocks_of
from tiny_models import shared

from linscore.compression.holds import unit_parameters
from linscore.decoder.cached import block_kv_bytes, kv_bytes_per_token
from linscore.decoder.find import find_decoder
from linscore.spans import Unit
from linscore.surgery.linearize import replace_units


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2", "bloom"])
def test_what_goes_with_a_unit_is_what_a_cut_model_lacks(family):
    model, decoder = shared(family), decoder_of(family)
    parameters, kept = unit_parameters(decoder, sub_blocks_of(family)), block_kv_bytes(decoder)
    total = sum(parameter.numel() for parameter in model.parameters())
    for name in ("1.attention", "1.mlp", "1"):
        unit = Unit.parse(name)
        cut = replace_units(model, {unit: None})
        assert total - sum(parameter.numel() for parameter in cut.parameters()) == parameters[unit]
        if unit.part != "mlp":
            assert kv_bytes_per_token(decoder) - kv_bytes_per_token(find_decoder(cut)) == kept[1]
