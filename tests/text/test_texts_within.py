"""Texts out of packed sequences, by hand."""

from linscore.text.packing import texts_within


def test_texts_that_begin_in_a_packed_sequence_are_found_again():
    assert texts_within([5, 1, 7, 8, 2, 1, 9], [1]) == [[1, 7, 8, 2], [1, 9]]
    assert texts_within([1, 3, 4, 1, 3], [1, 3]) == [[1, 3, 4]]  # of the last there is nothing
    assert texts_within([5, 6, 7], [1]) == [[5, 6, 7]]
    assert texts_within([5, 6, 7], []) == [[5, 6, 7]]
