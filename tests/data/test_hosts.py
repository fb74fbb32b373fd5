"""For any data and any hosts: the same batches, each row once an epoch, from any step."""

import json

import numpy as np
import pytest

from data.config import DataConfig
from data.loader import make_loader
from data.pipeline import open_data
from data.prepare.run import prepare_corpus
from data.rows import num_rows
from data.text.tokenizer import train

TOKENIZER = train("byte", [], 0, fim=True)
BATCH, SEED = 24, 3


@pytest.fixture(
    scope="module", params=["text", "chats", "filtered", "filled", "mixed", "prepared", "both"]
)
def opened(request, tmp_path_factory):
    """(config, data) of packed text, packed chats, what filters and deduplication leave, cut text
    with its middle to fill in, a mixture with changes and ends, prepared rows, and a mixture with
    prepared rows."""
    folder = tmp_path_factory.mktemp("data")
    texts = [{"text": f"{'word ' * (i % 9)}number {i}"} for i in range(150)]
    chats = [{"prompt": f"ask {i}", "response": "yes " * (1 + i % 7)} for i in range(150)]
    for name, records in (("text", texts), ("more", texts[:60]), ("chats", chats)):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(lines)
    TOKENIZER.save(folder / "tokenizer")
    path, more = str(folder / "text.jsonl"), str(folder / "more.jsonl")
    settings, schema = {"source": path}, "text"
    if request.param == "chats":
        settings, schema = {"source": str(folder / "chats.jsonl")}, "chat"
    if request.param == "filtered":
        settings |= {"filters": {"min_length": 12}, "dedup": "near", "subset": "1/2"}
    if request.param == "filled":
        settings |= {"fim_rate": 0.7, "truncate": "40 characters"}
    if request.param in ("prepared", "both"):
        out = str(folder / "out")
        prepare_corpus(DataConfig(source=path, length=64), "text", out, tokenizer=str(folder))
        settings = {"source": out}
    if request.param in ("mixed", "both"):
        sources = {
            "a": {"source": settings["source"], "weight": 3.0, "changes": {"5": 1.0}},
            "b": {"source": more, "weight": 1.0, "epochs": 2.5},
        }
        settings = {"source": "", "mixture": sources}
    config = DataConfig(length=64, **settings)
    return config, open_data(config, schema, TOKENIZER)


@pytest.mark.parametrize("hosts", [1, 2, 3, 4, 8])
def test_hosts_read_slices_of_the_same_batches(opened, hosts):
    config, data = opened
    whole = make_loader(config, data, BATCH, SEED)
    parts = [
        make_loader(config, data, BATCH, SEED, lambda size, local=local: local)
        for local in np.split(np.arange(BATCH), hosts)
    ]
    for step in range(12):
        wanted = whole.batch(step)
        batches = [part.batch(step) for part in parts]
        for name, values in wanted.items():
            np.testing.assert_array_equal(np.concatenate([b[name] for b in batches]), values)
        sources = [name for part in parts for name in part.sources(step)]
        assert sources == whole.sources(step)


@pytest.mark.parametrize(("before", "after"), [(1, 8), (8, 3), (4, 2), (3, 1)])
def test_a_run_goes_on_with_other_hosts(opened, before, after):
    """A run stopped at any step continues with the batches of the uninterrupted run."""
    config, data = opened
    uninterrupted = list(make_loader(config, data, BATCH, SEED).iterate(0, 9))
    for stop in (1, 4, 8):
        collected = []
        for hosts, steps in ((before, range(stop)), (after, range(stop, 9))):
            streams = [
                make_loader(config, data, BATCH, SEED, lambda size, local=local: local).iterate(
                    steps.start, steps.stop
                )
                for local in np.split(np.arange(BATCH), hosts)
            ]
            for batches in zip(*streams, strict=True):
                collected.append(np.concatenate([batch["tokens"] for batch in batches]))
        np.testing.assert_array_equal(np.stack(collected), [b["tokens"] for b in uninterrupted])


def test_no_row_comes_twice_in_an_epoch(opened):
    config, data = opened
    loader = make_loader(config, data, BATCH, SEED)
    size = num_rows(data.train)
    sizes = data.sizes or (size,)
    numbers = loader.index(np.arange(min(2 * size, 12 * BATCH))).tolist()
    begin = 0
    for count in sizes:
        mine = [n for n in numbers if begin <= n < begin + count]
        for start in range(0, len(mine), count):
            epoch = mine[start : start + count]
            assert len(set(epoch)) == len(epoch)
        begin += count
    everything = {n for n in numbers if n < sizes[0]}
    if len(sizes) == 1:
        assert len(everything) == min(size, len(numbers))
