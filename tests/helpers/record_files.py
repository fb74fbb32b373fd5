"""Files of every format that Seedpod reads, with the same rows."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from data.read.sources import read

ROWS = [{"text": f"text {i} ü", "n": i} for i in range(7)]


def write_dataset(folder: Path, rows: Any, parts: int = 2) -> str:
    """Writes a data set as Hugging Face `datasets` saves one."""
    folder.mkdir(parents=True)
    size, names = -(-len(rows) // parts), []
    for k in range(parts):
        names.append({"filename": f"data-{k:05}-of-{parts:05}.arrow"})
        table = rows[k * size : (k + 1) * size]
        table = pyarrow.Table.from_pylist(table) if isinstance(rows, list) else table
        with pyarrow.ipc.new_stream(folder / names[-1]["filename"], table.schema) as out:
            out.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": names, "_split": "train"}))
    return str(folder)


def write(path: Path, rows: Any) -> str:
    """Writes the rows in the format that the path's ending names."""
    ending = "".join(path.suffixes).removesuffix(".gz")
    if ending == "":
        return write_dataset(path, rows)
    if ending == ".parquet":
        table = pyarrow.Table.from_pylist(rows) if isinstance(rows, list) else rows
        path.parent.mkdir(exist_ok=True)
        parquet.write_table(table, path, row_group_size=3)
        return str(path)
    separator, quote = ("\t", "") if ending == ".tsv" else (",", '"')
    text = {
        ".txt": lambda: "".join(row["text"] + "\n" for row in rows),
        ".jsonl": lambda: "".join(json.dumps(row) + "\n" for row in rows),
        ".json": lambda: json.dumps(rows, indent=1),
    }.get(ending, lambda: separator.join(rows[0]) + "\n" + "".join(
        f"{quote}{row['text']}{quote}{separator}{row['n']}\r\n" for row in rows
    ))()  # fmt: skip
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


NAMES = ["a.txt", "a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "dataset"]
NAMES += ["a.txt.gz", "a.jsonl.gz", "a.json.gz", "a.csv.gz"]


def texts(path: Path | str, **options: Any) -> tuple[list[str], dict[str, int]]:
    """(texts, counts of skipped records) of a file."""
    result = read(str(path), "text", on_bad="skip", **options)
    return [example["text"] for example in result.examples], dict(result.skipped)
