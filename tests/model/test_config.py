"""TransformerConfig refuses what cannot be built, and says which field."""

import pytest

from model.config import SIZES, TransformerConfig

GOOD = dict(
    vocab_size=20, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=32
)


@pytest.mark.parametrize(
    "change,message",
    [
        (dict(num_kv_heads=3), r"model\.num_kv_heads=3 does not divide model\.num_heads=4"),
        (dict(num_kv_heads=8), r"model\.num_kv_heads=8 does not divide"),
        (dict(head_dim=7), r"model\.head_dim=7 is odd"),
        (dict(remat="some"), r"model\.remat='some'; choose none, full, minimal"),
        (dict(dtype="float16"), r"model\.dtype='float16'; choose float32 or bfloat16"),
        (dict(scan_unroll=3), r"model\.scan_unroll=3 is not in 0\.\.2"),
        (dict(scan_unroll=-1), r"model\.scan_unroll=-1 is not in"),
        (dict(num_layers=0), r"model\.num_layers is 0; it must be at least 1"),
        (dict(vocab_size=-1), r"model\.vocab_size is -1"),
        (dict(max_length=0), r"model\.max_length is 0"),
    ],
)
def test_a_field_that_cannot_be_is_an_error(change, message):
    TransformerConfig(**GOOD)
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**(GOOD | change))


@pytest.mark.parametrize("size,multiple,padded", [(20, 16, 32), (32, 16, 32), (33, 1, 33)])
def test_the_vocabulary_is_rounded_up(size, multiple, padded):
    config = TransformerConfig(**(GOOD | dict(vocab_size=size, vocab_multiple=multiple)))
    assert config.padded_vocab_size == padded


@pytest.mark.parametrize("name", SIZES)
def test_every_named_size_is_valid(name):
    TransformerConfig(vocab_size=1000, **SIZES[name])


def test_flops_are_six_a_weight_and_causal_attention():
    """By hand for GOOD with 128 rows of vocabulary: two matmuls of T/2 keys a head and layer."""
    weights = 2 * (16 * 8 * 4 * 2 + 16 * 8 * 2 * 2 + 3 * 16 * 32) + 128 * 16
    attention = 2 * 4 * (10 / 2) * 8 * 2  # layers, heads, keys, head size, scores and values
    assert TransformerConfig(**GOOD).flops_per_token(10) == 6 * (weights + attention)
