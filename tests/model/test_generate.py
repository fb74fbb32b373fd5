"""Sampling: the cache against the full forward, stops, filters, and the distribution drawn from.

Axes: B batch, P prompt length (left padded), R response length, V vocabulary.
"""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import cpu
from model.config import TransformerConfig
from model.cpu import TransposedWeight
from model.generate import (
    Sampling,
    advance,
    begin,
    filter_logits,
    generate,
    pick,
    prepare,
    prompt_positions,
)
from model.layers import kv_cache
from model.layers.kv_cache import init_cache
from model.sharding import MeshConfig, make_mesh, put_batch
from model.transformer import Transformer
from model.vocabulary import entropy, log_probs

CONFIG = TransformerConfig(
    vocab_size=12, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=4,
    mlp_dim=24, vocab_multiple=8, max_length=32,
)  # fmt: skip
LENGTHS = np.array([5, 1, 3, 4])
B, P, R = len(LENGTHS), 5, 7
MASK = np.arange(P) >= P - LENGTHS[:, None]
PROMPTS = np.where(MASK, np.random.default_rng(0).integers(0, 12, (B, P)), 0).astype(np.int32)
KEYS = jax.random.split(jax.random.key(7), B)


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    tokens = jnp.zeros((1, 2), jnp.int32)
    init = Transformer(CONFIG).init
    shapes = nn.unbox(jax.eval_shape(lambda: init(jax.random.key(0), tokens)))["params"]
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.4, x.shape), x.dtype), shapes)


compiled = jax.jit(partial(generate, CONFIG), static_argnums=4)


@pytest.fixture(scope="module")
def run(params):
    """run(**sampling) -> Sample as numpy."""

    def run(prompts=PROMPTS, mask=MASK, keys=KEYS, **options):
        sampling = Sampling(**({"max_new_tokens": R} | options))
        return jax.device_get(compiled(params, prompts, mask, keys, sampling))

    return run


@pytest.fixture(scope="module")
def full(params):
    """Logits [B, R, V] of a full forward pass, before each response token of a Sample."""

    @jax.jit
    def logits(tokens, response_mask):
        valid = jnp.concatenate([MASK, response_mask], axis=1)
        args = tokens, prompt_positions(valid), valid.astype(jnp.int32)
        return Transformer(CONFIG).apply({"params": params}, *args)[:, P - 1 : -1]

    return lambda sample: np.asarray(logits(sample.tokens, sample.response_mask))


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_cached_decoding_equals_the_full_forward(run, full, temperature):
    """Prompts of different lengths in one batch, log-probs of every sampled token."""
    sample = run(temperature=temperature)
    expected = log_probs(full(sample), sample.tokens[:, P:], temperature)
    np.testing.assert_allclose(sample.logprobs, expected, atol=1e-5)
    assert np.all(sample.logprobs < 0)
    assert sample.response_mask.all()
    np.testing.assert_array_equal(sample.tokens[:, :P], PROMPTS)


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"top_p": 0.8}, {"samples": 2, "temperature": 0.7}]
)
def test_tokens_drawn_call_by_call_are_those_of_generate(params, options):
    """Whatever the number of tokens a call, with rows that stop early."""
    sampling = Sampling(max_new_tokens=R, stop_ids=(3, 8), pad_id=11, **options)
    keys = jax.random.split(jax.random.key(7), B * sampling.samples)
    prepared = prepare(CONFIG, params)
    start, more = (jax.jit(f, static_argnames=("config", "sampling")) for f in (begin, advance))
    state = start(CONFIG, prepared, PROMPTS, MASK, keys, sampling)
    assert int(state.t) == 1
    for until in (2, 3, 6, R, R + 3):
        state = more(CONFIG, prepared, state, sampling, until)
    sample = compiled(params, PROMPTS, MASK, keys, sampling)
    assert 0 < sample.response_mask.mean() < 1
    np.testing.assert_array_equal(state.response, sample.tokens[:, P:])
    np.testing.assert_array_equal(state.response_mask, sample.response_mask)
    np.testing.assert_allclose(state.logprobs, sample.logprobs, rtol=1e-6)


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("unroll", [0, 1])
def test_cached_decoding_of_local_and_unrolled_layers(params, unroll, transposed, monkeypatch):
    """Windows shorter than the prompts, a cache of all layers or one a layer, its keys in the
    layout of CPU or of accelerators, two samples each."""
    monkeypatch.setattr(kv_cache, "keys_transposed", lambda config: transposed)
    config = dataclasses.replace(
        CONFIG, layer_pattern=("local", "global"), window=3, scan_unroll=unroll
    )
    keys, sampling = jax.random.split(jax.random.key(2), 2 * B), Sampling(R, 0.7, samples=2)
    sample = jax.jit(partial(generate, config), static_argnums=4)(
        params, PROMPTS, MASK, keys, sampling
    )
    valid = jnp.concatenate([np.repeat(MASK, 2, axis=0), sample.response_mask], axis=1)
    args = sample.tokens, prompt_positions(valid), valid.astype(jnp.int32)
    logits = Transformer(config).apply({"params": params}, *args)[:, P - 1 : -1]
    expected = log_probs(logits, sample.tokens[:, P:], 0.7)
    np.testing.assert_allclose(sample.logprobs, expected, atol=1e-5)


@pytest.mark.parametrize("unroll", [0, 1])
def test_decoding_does_not_rematerialize(params, unroll):
    """Decoding does not depend on the remat policy of training."""
    config = dataclasses.replace(CONFIG, scan_unroll=unroll)
    args = PROMPTS, MASK, KEYS, Sampling(2)
    programs = [
        str(jax.make_jaxpr(lambda p, c=c: tuple(generate(c, p, *args)))(params))
        for c in (config, dataclasses.replace(config, remat="minimal"))
    ]
    assert programs[0] == programs[1] and "remat" not in programs[0]


@pytest.mark.parametrize("kept", ["float32", "bfloat16"])
def test_cached_decoding_in_bfloat16(params, kept, monkeypatch):
    """The cache in the layout of CPU, and in that of accelerators."""
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    if kept == "bfloat16":
        monkeypatch.setattr(cpu, "cache_dtype", lambda dtype: dtype)
    assert init_cache(config, 1, 8).values.dtype == kept
    sample = jax.jit(partial(generate, config), static_argnums=4)(
        params, PROMPTS, MASK, KEYS, Sampling(R)
    )
    valid = jnp.concatenate([MASK, sample.response_mask], axis=1)
    args = sample.tokens, prompt_positions(valid), valid.astype(jnp.int32)
    logits = Transformer(CONFIG).apply({"params": params}, *args)[:, P - 1 : -1]
    expected = log_probs(logits, sample.tokens[:, P:], 1.0)
    np.testing.assert_allclose(sample.logprobs, expected, atol=0.1)


@pytest.mark.parametrize("adapted", [False, True])
def test_transposed_weights_of_unrolled_layers_in_bfloat16(params, adapted):
    """Transposed once by `prepare`, or by `generate` at each call; adapters are not transposed."""
    config = dataclasses.replace(CONFIG, dtype="bfloat16", scan_unroll=0)
    if adapted:
        rng, L, r = np.random.default_rng(1), config.num_layers, 2
        shapes = {"down_lora_a": (L, 24, r), "down_lora_b": (L, r, 16)}
        shapes |= {"query_lora_a": (L, 16, r), "query_lora_b": (L, r, 4, 4)}
        adapters = {k: jnp.asarray(rng.normal(0, 0.2, s), jnp.float32) for k, s in shapes.items()}
        params = {**params, "layers": params["layers"] | adapters}
    prepared = jax.jit(prepare, static_argnums=0)(config, params)
    assert isinstance(prepared["layers"]["0"]["down"], TransposedWeight)
    run = jax.jit(partial(generate, config), static_argnums=4)
    sample, again = (run(p, PROMPTS, MASK, KEYS, Sampling(R)) for p in (prepared, params))
    jax.tree.map(np.testing.assert_array_equal, sample, again)
    valid = jnp.concatenate([MASK, sample.response_mask], axis=1)
    args = sample.tokens, prompt_positions(valid), valid.astype(jnp.int32)
    logits = Transformer(CONFIG).apply({"params": params}, *args)[:, P - 1 : -1]
    expected = log_probs(logits, sample.tokens[:, P:], 1.0)
    np.testing.assert_allclose(sample.logprobs, expected, atol=0.1)


def test_keys_are_transposed_on_cpu_where_query_heads_share_them():
    single = dataclasses.replace(CONFIG, num_kv_heads=CONFIG.num_heads)
    shapes = [init_cache(c, B, P + R).keys.shape[-2:] for c in (CONFIG, single)]
    assert shapes == [(CONFIG.head_dim, P + R), (P + R, CONFIG.head_dim)]


def test_greedy_takes_the_likeliest_id_and_top_k_of_1_is_greedy(run, full):
    sample = run(temperature=0.0)
    np.testing.assert_array_equal(sample.tokens[:, P:], np.argmax(full(sample), axis=-1))
    np.testing.assert_array_equal(run(top_k=1).tokens, sample.tokens)


def test_a_row_draws_the_same_in_any_batch(run):
    """A row's draws do not depend on other rows, their order, padding or number."""
    sample = run(temperature=1.0)
    order = np.array([2, 0])
    wider = np.pad(PROMPTS[order], ((0, 0), (3, 0))), np.pad(MASK[order], ((0, 0), (3, 0)))
    other = run(*wider, KEYS[order], temperature=1.0)
    np.testing.assert_array_equal(other.tokens[:, P + 3 :], sample.tokens[order, P:])
    np.testing.assert_allclose(other.logprobs, sample.logprobs[order], atol=1e-5)
    keys = jax.random.split(jax.random.key(8), B)
    assert np.any(run(keys=keys, temperature=1.0).tokens != sample.tokens)


def test_equal_prompts_with_keys_of_their_own_draw_apart(run):
    rows = np.array([0, 0, 0, 0])
    sample = run(PROMPTS[rows], MASK[rows], temperature=1.0)
    assert len(np.unique(sample.tokens, axis=0)) > 1


def test_a_stop_id_ends_a_row_and_is_part_of_it(run):
    """The same draws as without it up to the stop; padding, mask 0 and log-prob 0 after it."""
    free = run(temperature=1.0)
    stops = (3, 8)
    sample = run(temperature=1.0, stop_ids=stops, pad_id=11)
    stopped = np.isin(free.tokens[:, P:], stops)
    last = np.where(stopped.any(1), stopped.argmax(1), R - 1)
    assert stopped.any() and last.min() < R - 1
    valid = np.arange(R) <= last[:, None]
    np.testing.assert_array_equal(sample.response_mask, valid)
    np.testing.assert_array_equal(sample.tokens[:, P:], np.where(valid, free.tokens[:, P:], 11))
    np.testing.assert_allclose(sample.logprobs, np.where(valid, free.logprobs, 0), atol=1e-5)


def test_everything_stops_when_every_row_has(run):
    sample = run(temperature=0.0, stop_ids=tuple(range(12)), pad_id=0)
    np.testing.assert_array_equal(sample.response_mask, np.arange(R) < np.ones((B, 1)))


@pytest.fixture(scope="module")
def first(run, full):
    """first(**sampling) -> Sample of 4096 first tokens after one prompt; its logits [V]."""
    n = 4096
    keys = jax.random.split(jax.random.key(1), n)
    prompts, mask = np.tile(PROMPTS[:1], (n, 1)), np.tile(MASK[:1], (n, 1))
    logits = full(run(temperature=1.0))[0, 0].astype(float)

    def draw(**options):
        return run(prompts, mask, keys, max_new_tokens=1, **options)

    return draw, logits[:12]


def test_frequencies_are_those_of_the_softmax_at_the_temperature(first):
    """Chi-square over 12 ids: with 11 degrees of freedom 40 has a probability of 4e-5."""
    draw, logits = first
    counts = np.bincount(draw(temperature=0.7).tokens[:, P], minlength=12)
    assert len(counts) == 12  # none of the padded vocabulary

    def chi_square(temperature):
        wanted = np.exp(logits / temperature)
        wanted *= counts.sum() / wanted.sum()
        return np.sum((counts - wanted) ** 2 / wanted)

    assert chi_square(0.7) < 40
    assert chi_square(1.0) > 100  # the test detects a difference


@pytest.mark.parametrize("size", [5, 128, 300])
def test_pick_inverts_the_running_sum_of_probabilities(size):
    """Equal to NumPy in float64; at the ends of [0, 1) too, and never an id of probability 0."""
    random = np.random.default_rng(size)
    logits = random.normal(size=size).astype(np.float32) * 3
    logits[random.permutation(size)[: size // 3]] = -1e30
    logits[-1] = logits[0] = -1e30
    uniform = np.append(random.random(2000, np.float32), np.float32([0, 1 - 2**-24]))
    ids, logp = jax.jit(pick)(np.tile(logits, (len(uniform), 1)), uniform)

    weights = np.exp(logits.astype(np.float64))
    sums = np.cumsum(weights) / weights.sum()
    assert (weights[ids] > 0).all()
    assert ids[-2] == np.flatnonzero(weights)[0] and ids[-1] == np.flatnonzero(weights)[-1]
    clear = np.abs(sums[:, None] - uniform).min(0) > 1e-6
    clear[-2:] = False
    expected = np.searchsorted(sums, uniform, side="right")
    np.testing.assert_array_equal(np.asarray(ids)[clear], expected[clear])
    assert clear.sum() > 1900
    np.testing.assert_allclose(logp, np.log(weights[ids] / weights.sum()), atol=1e-5)


def test_filtered_ids_are_never_drawn_and_logprobs_renormalise(first):
    draw, logits = first
    likeliest = np.argsort(-logits)
    sample = draw(top_k=3, banned_ids=(int(likeliest[0]),))
    ids = sample.tokens[:, P]
    assert set(ids) == set(likeliest[1:4])
    normaliser = np.log(np.exp(logits[likeliest[1:4]]).sum())
    np.testing.assert_allclose(sample.logprobs[:, 0], logits[ids] - normaliser, atol=1e-5)


PROBABILITIES = np.array([[0.05, 0.4, 0.1, 0.25, 0.2], [0.96, 0.01, 0.01, 0.01, 0.01]])


@pytest.mark.parametrize(
    "options,kept",
    [
        ({}, [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]),
        ({"top_p": 0.5}, [[1, 3], [0]]),
        ({"top_p": 0.66}, [[1, 3, 4], [0]]),
        ({"top_p": 0.94}, [[1, 2, 3, 4], [0]]),
        ({"top_p": 0.01}, [[1], [0]]),
        ({"top_k": 2}, [[1, 3], [0, 1, 2, 3, 4]]),  # ties with the k-th stay
        ({"top_k": 99}, [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]),
        ({"banned_ids": (1,), "top_k": 1}, [[3], [0]]),
        ({"banned_ids": (1,), "top_p": 0.7}, [[3, 4], [0]]),  # 0.25/0.6, then 0.2/0.6
        ({"top_k": 3, "top_p": 0.7}, [[1, 3], [0]]),  # 0.4/0.85, then 0.25/0.85
    ],
)
def test_filters_keep_what_they_say(options, kept):
    logits = jnp.log(jnp.asarray(PROBABILITIES, jnp.float32))
    filtered = np.asarray(filter_logits(logits, Sampling(1, **options)))
    for row, keep, before in zip(filtered, kept, np.asarray(logits), strict=True):
        assert sorted(np.flatnonzero(row > -1e29)) == keep
        np.testing.assert_array_equal(row[keep], before[keep])


def test_positions_count_real_tokens_on_either_side():
    mask = jnp.array([[0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]], bool)
    positions = np.asarray(prompt_positions(mask))
    np.testing.assert_array_equal(positions[0, 2:], [0, 1])
    np.testing.assert_array_equal(positions[1, :2], [0, 1])
    np.testing.assert_array_equal(positions[2], [0, 1, 2, 3])


def test_entropy_of_a_uniform_and_of_a_certain_distribution():
    np.testing.assert_allclose(entropy(jnp.zeros((1, 12))), np.log(12), rtol=1e-6)
    assert entropy(jnp.array([[0.0, -1e30]])) == 0  # as the padded vocabulary has it


def test_samples_of_a_prompt_are_rows_of_it(run):
    """n answers a prompt, the prompt read once, are those of n copies with the same keys."""
    keys = jax.random.split(jax.random.key(3), 2 * B)
    rows = np.repeat(np.arange(B), 2)
    once = run(keys=keys, temperature=1.0, samples=2, stop_ids=(3,))
    copies = run(PROMPTS[rows], MASK[rows], keys, temperature=1.0, stop_ids=(3,))
    np.testing.assert_array_equal(once.tokens, copies.tokens)
    np.testing.assert_array_equal(once.response_mask, copies.response_mask)
    np.testing.assert_allclose(once.logprobs, copies.logprobs, atol=1e-5)


def test_the_same_tokens_on_one_and_on_eight_devices(params):
    """Rows over data, heads over tensor: draws depend on a row's key alone."""
    rows = np.tile(np.arange(B), 2)
    keys = jax.random.split(jax.random.key(5), 2 * B)
    batch = PROMPTS[rows], MASK[rows], keys
    alone = compiled(params, *batch, Sampling(R))
    mesh = make_mesh(MeshConfig(data=4, tensor=2), jax.devices()[:8])
    with jax.set_mesh(mesh):
        spread = tuple(put_batch(x, mesh) for x in batch[:2])
        many = jax.jit(partial(generate, CONFIG), static_argnums=4)(
            params, *spread, keys, Sampling(R)
        )
    np.testing.assert_array_equal(many.tokens, alone.tokens)
    np.testing.assert_allclose(many.logprobs, alone.logprobs, atol=1e-5)
