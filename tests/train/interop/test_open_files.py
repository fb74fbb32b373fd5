"""Weights of open models as they are published, damaged or cut off: read as transformers reads
them, or refused with the file's name and what to do."""

import json

import numpy as np
import open_models
import pytest
import safetensors.numpy
from open_models import CONFIG, LFS, UP, VALUES, edit, refused

from ranges import ConfigError
from train.interop import convert, published, weights


def copy_of(directory, files=1, values=VALUES):
    return open_models.write(directory / "hf", values, files=files)


@pytest.mark.parametrize("files", [1, 2])
def test_other_files_beside_the_model_are_not_read(files, tmp_path):
    hf = copy_of(tmp_path, files=files)
    junk = {"layers.0.attention.wq.weight": np.ones((2, 2), np.float32)}
    for other in ("consolidated", "adapter_model", "model.fp16"):
        safetensors.numpy.save_file(junk, hf / f"{other}.safetensors")
    assert set(weights.SafetensorsReader(hf).names) == set(VALUES)


@pytest.mark.parametrize(
    "text, place, tower",
    [
        ("model.language_model.", "model.", "vision_tower"),
        ("model.language_model.", "model.", "multi_modal_projector"),
        ("language_model.model.", "", "vision_tower"),
    ],
)
def test_the_text_half_of_a_model_with_eyes(text, place, tower, tmp_path, capsys):
    values = {n.replace("model.", text, 1): v for n, v in VALUES.items()}
    for i in range(2):
        values[f"{place}{tower}.layers.{i}.weight"] = np.ones((2, 2), np.float32)
    reader = weights.SafetensorsReader(copy_of(tmp_path, values=values))
    weights.check_names(CONFIG, reader)
    np.testing.assert_array_equal(reader.read(UP), VALUES[UP])
    said = " ".join(capsys.readouterr().out.split())
    assert f"2 tensors are left out, which the text model does not read: {tower}" in said


def damage(hf, kind):
    """Damages a directory of two files and an index."""
    file, index = hf / "part-1.safetensors", hf / "model.safetensors.index.json"
    content = file.read_bytes()
    listed = json.loads(index.read_text())["weight_map"]
    name = next(n for n, where in listed.items() if where == file.name)
    if kind == "truncated":
        file.write_bytes(content[:-100])
    elif kind == "truncated in its header":
        file.write_bytes(content[:50])
    elif kind == "a pointer":
        file.write_bytes(LFS)
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "a web page":
        file.write_bytes(b"<!DOCTYPE html><html><body>404</body></html>" + b" " * 200)
    elif kind == "gone":
        file.unlink()
    elif kind == "in another file":
        index.write_text(json.dumps({"weight_map": listed | {name: "part-0.safetensors"}}))
    elif kind == "in no file":
        index.write_text(json.dumps({"weight_map": listed | {"model.x.weight": file.name}}))
    elif kind == "elsewhere":
        index.write_text(json.dumps({"weight_map": listed | {name: "../../secret"}}))
    else:
        index.write_bytes({"cut": b'{"weight_map": {', "a list": b"[]", "no map": b"{}",
                           "deep": b"[" * 100_000, "an index pointer": LFS}[kind])  # fmt: skip


@pytest.mark.parametrize(
    "kind, said",
    [
        ("truncated", r"part-1.safetensors is not a whole .* download it again"),
        ("truncated in its header", r"part-1.safetensors is not a whole .* download it again"),
        ("a pointer", r"part-1.safetensors is a pointer of Git LFS.*git lfs pull"),
        ("empty", r"part-1.safetensors is empty; download"),
        ("a web page", r"part-1.safetensors is a web page; download"),
        ("gone", r"lacks part-1.safetensors, one of 2 files .* download it again"),
        ("in another file", r"index.json puts .* in part-0.safetensors, and part-1.*holds it"),
        ("in no file", r"index.json puts model.x.weight in part-1.safetensors, and none"),
        ("elsewhere", r"index.json puts .* in '../../secret', which is no file beside it"),
        ("cut", r"index.json is not readable JSON .* download it again"),
        ("deep", r"index.json is not readable JSON .* download it again"),
        ("a list", r"index.json is not of the form"),
        ("no map", r"index.json has no weight_map"),
        ("an index pointer", r"index.json is a pointer of Git LFS"),
    ],
)
def test_damaged_weights_are_named_with_their_file(kind, said, tmp_path):
    hf = copy_of(tmp_path, files=2)
    damage(hf, kind)
    with pytest.raises(ConfigError, match=said):
        published.load(hf)


@pytest.mark.parametrize(
    "name, said",
    [
        ("pytorch_model.bin", "holds no .*safetensors, which Seedpod reads; its pytorch_model.bin"),
        ("adapter_model.safetensors", "holds an adapter alone .*merge_and_unload"),
        ("consolidated.safetensors", "neither model.safetensors nor model.safetensors.index.json"),
    ],
)
def test_weights_in_another_form(name, said, tmp_path):
    hf = copy_of(tmp_path)
    (hf / "model.safetensors").rename(hf / name)
    with pytest.raises(ConfigError, match=said):
        published.load(hf)


def test_a_link_without_its_file(tmp_path):
    hf = copy_of(tmp_path)
    (hf / "model.safetensors").unlink()
    (hf / "model.safetensors").symlink_to(tmp_path / "blob")
    with pytest.raises(ConfigError, match=r"model.safetensors is a link to a missing file"):
        published.load(hf)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_chat_template_that_cannot_be_read(content, hf_dir, tmp_path):
    path = tmp_path / "template.jinja"
    if content:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"--chat_template=.*template.jinja .*a Jinja file"):
        convert.import_model(str(hf_dir), tmp_path / "run", chat_template=str(path))


def test_messages_do_not_quote_names_of_any_length(tmp_path):
    hf = copy_of(tmp_path, files=2)
    index = hf / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x" * 10_000: "part-0.safetensors"}}))
    refused(published.load, hf)
    edit(hf / "config.json", **{"k" * 10_000: "v" * 10_000})
    refused(published.load, hf)


FP8 = {"quant_method": "fp8", "modules_to_not_convert": [f"model.layers.{i}" for i in range(500)]}


@pytest.mark.parametrize("settings, method", [
    (FP8, "fp8"), ({"quant_method": "gptq", "bits": 4}, "gptq"), ({"quant_method": "awq"}, "awq"),
    ({"load_in_4bit": True}, "bitsandbytes"),
])  # fmt: skip
def test_quantised_repositories_say_what_to_take(settings, method, tmp_path):
    hf = copy_of(tmp_path)
    edit(hf / "config.json", quantization_config=settings)
    said = refused(published.load, hf)
    assert f"quantised ({method})" in said and "take the repository" in said and "-FP8" in said


def test_quantised_and_unknown_tensors_are_few_names_and_a_count(tmp_path):
    more = {f"model.layers.{i}.self_attn.sinks": np.ones(4, np.float32) for i in range(300)}
    hf = open_models.write(tmp_path / "a", VALUES | more)
    assert "has 300 tensors" in refused(published.load, hf)
    scales = {UP.replace("weight", "weight_scale_inv"): np.ones(1, np.float32)}
    hf = open_models.write(tmp_path / "b", VALUES | scales)
    assert "1 tensors such as" in (said := refused(published.load, hf)) and "-FP8" in said
    hf = open_models.write(tmp_path / "c", VALUES | {UP: VALUES[UP].astype(np.int8)})
    assert "stored as I8" in (said := refused(published.load, hf)) and "model.safetensors" in said
    edit(tmp_path / "a" / "config.json", num_hidden_layers=10**9)
    assert "num_hidden_layers=1000000000" in refused(published.load, tmp_path / "a")
