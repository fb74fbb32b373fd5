"""Documents of a task: where they are found, which are the pool, and the examples of a question."""

import dataclasses
import gzip
import json
import os
from pathlib import Path

import pytest

from data.errors import DataError
from ranges import ConfigError
from train.tasks import few_shot, sources
from train.tasks.registry import find


def records(count, start=0):
    return [
        {"query": f"Question: {i}?", "choices": ["a", "b"], "gold": i % 2}
        for i in range(start, start + count)
    ]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt") as file:
        file.write(text)
    return str(path)


ARC = find("arc_easy")


@pytest.mark.parametrize("name", ["arc_easy.jsonl", "arc_easy.jsonl.gz", "arc_easy/test.jsonl"])
def test_a_file_in_a_folder_replaces_the_source(tmp_path, name):
    path = write(tmp_path / "b" / name, records(3))
    found = sources.load(ARC, [str(tmp_path / "a"), str(tmp_path / "b")])
    assert found.source == path and not found.pool and not found.taken
    assert [d["context"] for d in found.scored] == [f"Question: {i}?\nAnswer:" for i in range(3)]
    assert found.scored[1]["where"] == f"{path}:2"


def test_a_pool_beside_the_file_is_read_and_nothing_is_taken_from_the_scored(tmp_path):
    write(tmp_path / "arc_easy.jsonl", records(30))
    pool = write(tmp_path / "arc_easy" / "train.jsonl", records(4, start=50))
    found = sources.load(ARC, [str(tmp_path)], shots=2)
    assert (len(found.scored), len(found.pool), found.pool_source) == (30, 4, pool)


def test_a_source_is_named(tmp_path):
    path = write(tmp_path / "x.jsonl", records(4))
    pool = write(tmp_path / "y.jsonl", records(2, start=9))
    write(tmp_path / "arc_easy.jsonl", records(1))
    data = [str(tmp_path), f"arc_easy={path}", f"arc_easy.pool={pool}"]
    found = sources.load(ARC, data, shots=1)
    assert (found.source, found.pool_source, len(found.scored)) == (path, pool, 4)
    sources.check(data, ["arc_easy"])
    with pytest.raises(ConfigError, match="arc_easy is none of the tasks arc_hard; did you mean"):
        sources.check(data, ["arc_hard"])
    with pytest.raises(ConfigError, match="nowhere is no folder"):
        sources.check(["nowhere"], ["arc_easy"])
    with pytest.raises(ConfigError, match=f"or --data=x={path}"):
        sources.check([path], ["arc_easy", "x"])


def test_without_a_pool_a_seeded_part_of_the_documents_is_not_scored(tmp_path):
    write(tmp_path / "arc_easy.jsonl", records(50))
    few, many, other = (sources.load(ARC, [str(tmp_path)], *a) for a in ((1,), (5,), (5, 1)))
    assert few.scored == many.scored != other.scored
    assert (len(many.scored), len(many.pool), many.taken) == (45, 5, 5)
    assert not {d["where"] for d in many.scored} & {d["where"] for d in many.pool}


def test_a_record_of_another_form_is_refused_with_its_line(tmp_path):
    path = write(tmp_path / "arc_easy.jsonl", [*records(1), {"question": "?", "choises": []}])
    with pytest.raises(DataError, match=rf"{path}:2: no field 'choices'; did you mean choises"):
        sources.load(ARC, [str(tmp_path)])
    write(tmp_path / "arc_easy.jsonl", [{"query": "", "choices": ["a", "b"], "gold": 2}])
    with pytest.raises(DataError, match=r":1: 'gold' is 2; .* 0 to 1"):
        sources.load(ARC, [str(tmp_path)])


def test_a_task_without_a_source_says_what_to_type(tmp_path):
    with pytest.raises(DataError, match=f"no refusals.jsonl in {tmp_path}.*--data=FOLDER"):
        sources.load(find("refusals"), [str(tmp_path)])


POOL = [{"context": str(i), "choices": ["a", "b"], "gold": 0, "where": f"p:{i}"} for i in range(6)]


def test_examples_are_a_function_of_seed_and_document_and_never_the_document():
    draws = [few_shot.draw(ARC, POOL, {"context": "?"}, i, 3, 0) for i in range(20)]
    assert draws[4] == few_shot.draw(ARC, POOL, {"context": "?"}, 4, 3, 0)
    assert draws[4] != draws[5] or draws[5] != draws[6]
    assert all(len({d["where"] for d in drawn}) == 3 for drawn in draws)
    same = {**POOL[2], "where": "elsewhere"}
    for i in range(20):
        assert POOL[2] not in few_shot.draw(ARC, POOL, same, i, 5, 0)
    assert few_shot.draw(ARC, POOL, same, 0, 0, 0) == ()
    with pytest.raises(ConfigError, match="shots=7; task arc_easy has 6 documents"):
        few_shot.draw(ARC, POOL, {"context": "?"}, 0, 7, 0)


def test_fixed_examples_are_the_first_of_the_document_s_group():
    pool = [{**d, "subject": "xy"[i % 2]} for i, d in enumerate(POOL)]
    drawn = few_shot.draw(find("mmlu"), pool, {"subject": "y"}, 0, 2, 0)
    assert [d["context"] for d in drawn] == ["1", "3"]
    own = dataclasses.replace(ARC, examples=tuple(POOL[:2]))
    assert few_shot.draw(own, [], {"context": "?"}, 3, 1, 0) == (POOL[0],)


COUNTS = {
    "arc_easy": 2376, "arc_challenge": 1172, "piqa": 1838, "boolq": 3270, "copa": 100,
    "openbookqa": 500, "winogrande": 1267, "wsc273": 273, "lambada": 5153, "svamp": 300,
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
def test_llm_foundry_s_files_are_read_whole(name):
    folder = Path(os.environ.get("SEEDPOD_TEST_DATA", "no data")) / "eval-mc"
    if not folder.is_dir():
        pytest.skip("there is no eval-mc in the folder that SEEDPOD_TEST_DATA names")
    found = sources.load(find(name), [str(folder)])
    assert (len(found.scored), found.left_out) == (COUNTS[name], 0)
    for document in found.scored:
        find(name).request(document, found.scored[:1], False)
