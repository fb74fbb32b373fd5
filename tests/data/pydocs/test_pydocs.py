"""The built-in corpus, over the documentation of the Python that runs the tests."""

import collections
import hashlib
import importlib.util
import itertools
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data import pydocs
from data.pydocs import corpus, extract
from data.pydocs.corpus import SPLITS
from data.pydocs.extract import normalise
from data.pydocs.preferences import DRAWS, KINDS, SCOLDINGS, package, preferences_of

REPOSITORY = pathlib.Path(__file__).parents[3]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A folder with the three configs, built once."""
    folder = tmp_path_factory.mktemp("pydocs")
    for config in pydocs.CONFIGS:
        pydocs.build_dataset(config, folder)
    return folder


@pytest.fixture(scope="module")
def read(data_dir):
    """The records that TFDS reads from its files: {config: {split: [record]}}, text decoded."""

    def decoded(value):
        if isinstance(value, dict):
            return {key: decoded(item) for key, item in value.items()}
        return value.decode() if isinstance(value, bytes) else [item.decode() for item in value]

    return {
        config: {
            split: [
                decoded(record)
                for record in tfds.data_source(f"pydocs/{config}", split=split, data_dir=data_dir)
            ]
            for split in SPLITS
        }
        for config in pydocs.CONFIGS
    }


C_MODULES = ("builtins", "itertools", "math", "sys")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with a part of the standard library's source."""
    folder = tmp_path_factory.mktemp("small")
    for name in ("argparse", "decimal", "os", "random", "shutil", "statistics", "tarfile"):
        shutil.copy(pathlib.Path(sysconfig.get_path("stdlib"), f"{name}.py"), folder)
    return folder


@pytest.fixture(scope="module")
def another_process(small, tmp_path_factory):
    """A small build in a process with neither TensorFlow nor a network."""
    folder = tmp_path_factory.mktemp("another")
    program = f"""
import hashlib, pathlib, socket, sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def without_tensorflow(name, *rest):
    return None if name.partition(".")[0] == "tensorflow" else find(name, *rest)
PathFinder.find_spec = without_tensorflow
def no_network(*args, **kwargs):
    raise RuntimeError("network")
socket.socket.connect = socket.getaddrinfo = no_network

from absl import logging
logging.set_verbosity(logging.INFO)
from data import pydocs
from data.pydocs import extract
entries, small = extract.entries, pathlib.Path({str(small)!r})
extract.C_MODULES, extract.entries = {C_MODULES}, lambda: entries(small)
builder = pydocs.build_dataset("chat", {str(folder)!r})
assert len(builder.as_data_source("train")) > 300
assert logging.get_verbosity() == logging.INFO
assert "tensorflow" not in sys.modules
everything = repr([*pydocs._corpus(), pydocs._preferences()])
digest = hashlib.sha256(everything.encode()).hexdigest()
pathlib.Path({str(folder)!r}, "digest").write_text(digest)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env=dict(os.environ, PYTHONHASHSEED="1"),
        capture_output=True,
        text=True,
    )
    return types.SimpleNamespace(folder=folder, done=done)


def test_documents_come_from_source_c_and_topics(read):
    headings = {record["text"].split("\n\n")[0] for s in SPLITS for record in read["text"][s]}
    assert headings >= {
        "function shutil.copytree",
        "module shutil",
        "class argparse.ArgumentParser",
        "method str.find",
        "function math.gcd",
        "method array.array.append",
        "class decimal.Context",
        "method collections.abc.MutableMapping.setdefault",
        "topic assert",
    }


def test_there_is_enough_of_it(read):
    # Some distributions ship Python without these, which hold a fifth of the answers.
    whole = all(importlib.util.find_spec(name) for name in ("tkinter", "idlelib", "turtledemo"))
    assert sum(len(read["chat"][split]) for split in SPLITS) > (7_000 if whole else 5_500)
    text = [record["text"] for split in SPLITS for record in read["text"][split]]
    assert sum(len(t.encode()) for t in text) > 2_000_000
    assert len(set(text)) == len(text)
    for config in pydocs.CONFIGS:
        names = {split: {record["name"] for record in read[config][split]} for split in SPLITS}
        total = sum(map(len, names.values()))
        for split, share in (("train", 0.90), ("validation", 0.05), ("test", 0.05)):
            assert len(names[split]) / total == pytest.approx(share, abs=0.015)


def test_prompts_and_fields_are_as_documented(read):
    for split in SPLITS:
        for record in read["chat"][split]:
            assert set(record) == {"name", "kind", "prompt", "response"}
            assert record["prompt"] == f"What does `{record['name']}` do?"
            assert record["kind"] in {"module", "class", "function", "method", "property"}
            assert 15 <= len(record["response"]) <= 600
            assert "\n" not in record["response"] and ">>>" not in record["response"]
        for record in read["text"][split]:
            assert set(record) == {"name", "text"}
            heading = record["text"].split("\n\n")[0]
            assert heading.endswith(record["name"]) and len(record["text"]) > len(heading)
    records = {r["name"]: r for split in SPLITS for r in read["chat"][split]}
    assert records["shutil.copytree"]["response"].startswith("Recursively copy a directory tree")


def test_names_are_public_sorted_and_unique(read):
    for split in SPLITS:
        names = [record["name"] for record in read["chat"][split]]
        assert names == sorted(set(names))
        assert all(extract.is_public(name) for name in names)
        homes = [name.rpartition(".")[0].split(".") for name in names]
        assert not any({"test", "tests", "idle_test"} & set(home) for home in homes)


def test_boilerplate_and_duplicates_are_dropped(read):
    responses = [
        normalise(record["response"]) for split in SPLITS for record in read["chat"][split]
    ]
    assert len(set(responses)) == len(responses)
    assert "internal function" not in responses
    assert "list of weak references to the object" not in responses


def test_no_answer_stands_in_two_splits_of_any_config(read):
    """Searched as a run of words in everything that a model reads of the other splits."""
    answers = {
        split: {normalise(record["response"]) for record in read["chat"][split]} for split in SPLITS
    }
    texts_of = {split: [] for split in SPLITS}
    for split in SPLITS:
        texts_of[split] += [normalise(record["text"]) for record in read["text"][split]]
        texts_of[split] += [normalise(record["response"]) for record in read["chat"][split]]
        for record in read["preferences"][split]:
            # `repeated` consists of the answer's own words; where repetitions meet they may form
            # another answer by chance.
            assert record["rejected"]["kind"][3] == "repeated"
            near, far, truncated, _, scolding = record["rejected"]["text"]
            texts_of[split] += map(normalise, (record["chosen"], near, far, truncated, scolding))
    # A line break is no word, so no match spans two texts.
    haystacks = {split: " \n ".join(["", *texts, ""]) for split, texts in texts_of.items()}
    for of_split in SPLITS:
        # All of the two small splits, and a part of train, which takes long to search.
        wanted = sorted(answers[of_split])[:: 1 if of_split != "train" else 16]
        for in_split in SPLITS:
            if in_split != of_split:
                leaks = [a for a in wanted if f" {a} " in haystacks[in_split]]
                assert not leaks, (of_split, in_split, leaks[:5])
        assert all(f" {a} " in haystacks[of_split] for a in wanted)


def test_no_long_paragraph_is_both_in_train_and_held_out(read):
    def paragraphs(split):
        for record in read["text"][split]:
            for paragraph in record["text"].split("\n\n"):
                words = normalise(paragraph)
                if words.count(" ") + 1 >= corpus.REPEATABLE_WORDS:
                    yield words

    train, validation, test = (set(paragraphs(split)) for split in SPLITS)
    assert not train & validation and not train & test and not validation & test


def test_preferences_hold_five_kinds_from_their_own_split(read):
    of_name = {r["name"]: r for split in SPLITS for r in read["chat"][split]}
    for split in SPLITS:
        here = {record["response"]: record["name"] for record in read["chat"][split]}
        for record in read["preferences"][split]:
            name, chosen = record["name"], record["chosen"]
            assert record["rejected"]["kind"] == list(KINDS)
            assert record["prompt"] == of_name[name]["prompt"]
            assert chosen == of_name[name]["response"] and chosen in here
            near, far, truncated, repeated, scolding = record["rejected"]["text"]
            assert chosen not in record["rejected"]["text"]
            assert near in here and far in here
            assert package(here[far]) != package(name)
            assert chosen.startswith(truncated + " ")
            assert 0.3 <= len(truncated.split()) / len(chosen.split()) <= 0.6
            assert len(repeated) > len(chosen) and set(repeated.split()) == set(chosen.split())
            assert scolding in {template.format(name=name) for template in SCOLDINGS}


def test_training_questions_meet_other_mistakes_at_every_draw(read):
    for split in SPLITS:
        draws = collections.defaultdict(list)
        for record in read["preferences"][split]:
            draws[record["name"]].append(record["rejected"]["text"])
        assert {len(drawn) for drawn in draws.values()} == {DRAWS if split == "train" else 1}
        if split == "train":
            for number, kind in enumerate(KINDS):
                differ = [len({texts[number] for texts in drawn}) > 1 for drawn in draws.values()]
                assert np.mean(differ) > 0.75, kind


def test_near_is_a_neighbour_where_there_is_one(read):
    near_is_of_package = [
        package(name_of[record["rejected"]["text"][0]]) == package(record["name"])
        for name_of in [{r["response"]: r["name"] for r in read["chat"]["train"]}]
        for record in read["preferences"]["train"]
    ]
    assert sum(near_is_of_package) / len(near_is_of_package) > 0.99


def test_another_process_builds_the_same(another_process, small, monkeypatch):
    """Strings hash differently in each process, and here pytest has replaced hooks of `sys`."""
    monkeypatch.setattr(extract, "C_MODULES", C_MODULES)
    built = corpus.build(extract.entries(small))
    everything = [*built, preferences_of(built.answers)]
    digest = hashlib.sha256(repr(everything).encode()).hexdigest()
    assert digest == (another_process.folder / "digest").read_text()


def test_tensorflow_and_network_are_not_needed_and_nothing_is_printed(another_process):
    done = another_process.done
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "Generating" not in done.stderr and "%|" not in done.stderr


def test_the_version_is_this_pythons(data_dir):
    version = pydocs.build_dataset("chat", data_dir).info.version
    assert (version.minor, version.patch) == sys.version_info[1:3]


def first_records(config_name, split, records=pydocs.records):
    """The first 40 records of a split."""
    return itertools.islice(records(config_name, split), 40)


def test_a_build_broken_off_midway_is_built_again(tmp_path, monkeypatch):
    def broken(config_name, split):
        yield next(first_records(config_name, split))
        raise KeyboardInterrupt

    monkeypatch.setattr(pydocs, "records", broken)
    with pytest.raises(KeyboardInterrupt):
        pydocs.build_dataset("chat", tmp_path)
    # The folder that a killed process leaves.
    version = str(pydocs.Pydocs.VERSION)
    left = tmp_path / "pydocs" / "chat" / f"incomplete.ABCDEF_{version}"
    left.mkdir(parents=True)
    (left / "pydocs-train.array_record-00000-of-00001").write_bytes(b"half")
    monkeypatch.setattr(pydocs, "records", first_records)
    assert len(pydocs.build_dataset("chat", tmp_path).as_data_source("train")) == 40


def test_the_slower_of_two_builds_reads_what_the_faster_wrote(tmp_path, monkeypatch):
    def overtaken(config_name, split):
        monkeypatch.setattr(pydocs, "records", first_records)
        pydocs.build_dataset(config_name, tmp_path)
        yield from first_records(config_name, split)

    monkeypatch.setattr(pydocs, "records", overtaken)
    assert len(pydocs.build_dataset("chat", tmp_path).as_data_source("train")) == 40


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no config 'chats'; it has text, chat, preferences"):
        pydocs.build_dataset("chats", tmp_path)
    with pytest.raises(ValueError, match="no split 'dev'"):
        next(pydocs.records("chat", "dev"))
