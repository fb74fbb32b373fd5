"""Files of open models as they are published, damaged or cut off: taken as transformers takes them,
or refused with the file's name and what to do."""

import dataclasses
import json
import subprocess
import sys
import textwrap
import time

import gguf
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import open_models
import open_tokenizers
import pytest
import safetensors.numpy
from open_models import CONFIG, save_role, stored, write_gguf

from configs import specialise
from data.text import tokenizer as tokenizers
from data.text.hf_tokenizer import ROWS, HFTokenizer, byte_alphabet
from model.lora import LoRA
from model.sharding import MeshConfig, make_mesh
from ranges import ConfigError
from train import trainable as parts_
from train.config import run as configs
from train.interop import convert, export, gguf_files, unfinished, weights
from train.runtime import checkpoint
from train.runtime.leaves import Leaves
from train.step import TrainState

VALUES = open_models.tensors()
UP = "model.layers.1.mlp.up_proj.weight"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 942000000\n"
FP8 = {"quant_method": "fp8", "modules_to_not_convert": [f"model.layers.{i}" for i in range(500)]}


@pytest.fixture(scope="module")
def hf_dir(tmp_path_factory):
    return open_models.write(tmp_path_factory.mktemp("hf") / "model", VALUES)


@pytest.fixture(scope="module")
def run(hf_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "base"
    convert.import_model(str(hf_dir), path)
    return path


def copy_of(directory, where, files=1, values=VALUES):
    return open_models.write(where / "hf", values, files=files)


def refused(function, *args, **settings) -> str:
    """The message, which is short."""
    with pytest.raises(ConfigError) as e:
        function(*args, **settings)
    assert str(e.value).count("\n") < 3 and len(str(e.value)) < 700
    return str(e.value)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("files", [1, 2])
def test_other_files_beside_the_model_are_not_read(files, hf_dir, tmp_path):
    hf = copy_of(hf_dir, tmp_path, files=files)
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
def test_the_text_half_of_a_model_with_eyes(text, place, tower, hf_dir, tmp_path, capsys):
    values = {n.replace("model.", text, 1): v for n, v in VALUES.items()}
    for i in range(2):
        values[f"{place}{tower}.layers.{i}.weight"] = np.ones((2, 2), np.float32)
    reader = weights.SafetensorsReader(copy_of(hf_dir, tmp_path, values=values))
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
def test_damaged_weights_are_named_with_their_file(kind, said, hf_dir, tmp_path):
    hf = copy_of(hf_dir, tmp_path, files=2)
    damage(hf, kind)
    with pytest.raises(ConfigError, match=said):
        convert.load(hf)


@pytest.mark.parametrize(
    "name, said",
    [
        ("pytorch_model.bin", "holds no .*safetensors, which Seedpod reads; its pytorch_model.bin"),
        ("adapter_model.safetensors", "holds an adapter alone .*merge_and_unload"),
        ("consolidated.safetensors", "neither model.safetensors nor model.safetensors.index.json"),
    ],
)
def test_weights_in_another_form(name, said, hf_dir, tmp_path):
    hf = copy_of(hf_dir, tmp_path)
    (hf / "model.safetensors").rename(hf / name)
    with pytest.raises(ConfigError, match=said):
        convert.load(hf)


def test_a_link_without_its_file(hf_dir, tmp_path):
    hf = copy_of(hf_dir, tmp_path)
    (hf / "model.safetensors").unlink()
    (hf / "model.safetensors").symlink_to(tmp_path / "blob")
    with pytest.raises(ConfigError, match=r"model.safetensors is a link to a file that is not"):
        convert.load(hf)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_chat_template_that_cannot_be_read(content, hf_dir, tmp_path):
    path = tmp_path / "template.jinja"
    if content:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"--chat_template=.*template.jinja .*a Jinja file"):
        convert.import_model(str(hf_dir), tmp_path / "run", chat_template=str(path))


def test_messages_do_not_quote_names_of_any_length(hf_dir, tmp_path):
    hf = copy_of(hf_dir, tmp_path, files=2)
    index = hf / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x" * 10_000: "part-0.safetensors"}}))
    refused(convert.load, hf)
    edit(hf / "config.json", **{"k" * 10_000: "v" * 10_000})
    refused(convert.load, hf)


@pytest.mark.parametrize("facts, method", [
    (FP8, "fp8"), ({"quant_method": "gptq", "bits": 4}, "gptq"), ({"quant_method": "awq"}, "awq"),
    ({"load_in_4bit": True}, "bitsandbytes"),
])  # fmt: skip
def test_quantised_repositories_say_what_to_take(facts, method, hf_dir, tmp_path):
    hf = copy_of(hf_dir, tmp_path)
    edit(hf / "config.json", quantization_config=facts)
    said = refused(convert.load, hf)
    assert f"quantised ({method})" in said and "take the repository" in said and "-FP8" in said


def test_quantised_and_unknown_tensors_are_few_names_and_a_count(hf_dir, tmp_path):
    more = {f"model.layers.{i}.self_attn.sinks": np.ones(4, np.float32) for i in range(300)}
    hf = open_models.write(tmp_path / "a", VALUES | more)
    assert "has 300 tensors" in refused(convert.load, hf)
    scales = {UP.replace("weight", "weight_scale_inv"): np.ones(1, np.float32)}
    hf = open_models.write(tmp_path / "b", VALUES | scales)
    assert "1 tensors such as" in (said := refused(convert.load, hf)) and "-FP8" in said
    hf = open_models.write(tmp_path / "c", VALUES | {UP: VALUES[UP].astype(np.int8)})
    assert "stored as I8" in (said := refused(convert.load, hf)) and "model.safetensors" in said
    edit(tmp_path / "a" / "config.json", num_hidden_layers=10**9)
    assert "num_hidden_layers=1000000000" in refused(convert.load, tmp_path / "a")


# Tokenizers


def one_more_token(special=True):
    """A tokenizer with an added token of id 320, which the 320 rows of CONFIG lack."""
    files = open_tokenizers.files()
    facts = json.loads(files["tokenizer.json"])
    last = max(t["id"] for t in facts["added_tokens"])
    token = dict(facts["added_tokens"][last], id=320, content="<image>", special=special)
    facts["added_tokens"].append(token)
    return files | {"tokenizer.json": json.dumps(facts).encode()}


def test_an_added_token_without_a_row(hf_dir, tmp_path, capsys):
    files = one_more_token(special=False) | {"tokenizer.model": b"\x0a\x00 of SentencePiece"}
    hf = open_models.write(tmp_path / "hf", VALUES, tokenizer_files=files)
    assert convert.import_model(str(hf), tmp_path / "run") == CONFIG
    assert "1 added tokens have no row" in capsys.readouterr().out
    tokenizer, plain = tokenizers.load(tmp_path / "run"), tokenizers.load(hf_dir)
    assert tokenizer.vocab_size == 320 and tokenizer.encode("hello") == plain.encode("hello")
    with pytest.raises(ValueError, match=r"holds '<image>', token 320 .* has no embedding"):
        tokenizer.encode("see <image> now")
    with pytest.raises(ValueError, match=r"holds '<image>', token 320 .* has no embedding"):
        tokenizer.render_prompt([{"role": "user", "content": "see <image> now"}])
    export.export_model(tmp_path / "run", tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer.model"):
        assert (tmp_path / "out" / name).read_bytes() == files[name]
    assert "seedpod" not in (tmp_path / "out" / "tokenizer_config.json").read_text()


def test_a_special_token_without_a_row_is_text_as_any_special_token_is():
    tokenizer = HFTokenizer(one_more_token()).with_config(**{ROWS: 320})
    assert tokenizer.vocab_size == 320 and max(tokenizer.banned_ids) < 320
    text = "see <image> now"
    assert max(tokenizer.encode(text)) < 320 and tokenizer.decode(tokenizer.encode(text)) == text


def test_a_vocabulary_beyond_the_rows_is_of_another_model(tmp_path):
    files = open_tokenizers.files(vocab_size=330)
    hf = open_models.write(tmp_path / "hf", VALUES, tokenizer_files=files)
    assert "do not belong together" in refused(convert.import_model, str(hf), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("tokenizer.json", b'{"version": "1.0", "model"', "tokenizer.json is not readable JSON"),
        ("tokenizer.json", b'{"model": {"type": "BPE"}}', "tokenizer files cannot be read"),
        ("tokenizer.json", LFS, "tokenizer.json is a pointer"),
        ("tokenizer_config.json", b"[1]", "tokenizer_config.json is not of the form"),
        ("tokenizer_config.json", b'{"eos_token": 5}', "tokenizer files cannot be read"),
        ("tokenizer_config.json", b"{}", "names no eos_token"),
        ("tokenizer_config.json", b"\xff\xfe{", "tokenizer_config.json is not readable JSON"),
        ("generation_config.json", b'{"eos_token_id": "2"}', "'2' in eos_token_id, which is no id"),
        ("generation_config.json", b'{"eos_token_id": [-1]}', "-1 in eos_token_id"),
        ("config.json", b"{", "config.json is not readable JSON"),
        ("config.json", LFS, "config.json is a pointer"),
    ],
)
def test_damaged_tokenizer_and_config_files(name, content, said, hf_dir, tmp_path):
    hf = copy_of(hf_dir, tmp_path)
    (hf / name).write_bytes(content)
    found = refused(convert.import_model, str(hf), tmp_path / "run")
    assert said in found and str(hf) in found


def test_ids_in_the_billions_are_refused():
    files = open_tokenizers.files()
    facts = json.loads(files["tokenizer.json"])
    facts["model"]["vocab"]["zzz"] = 4_000_000_000
    with pytest.raises(ValueError, match="4000000000"):
        HFTokenizer(files | {"tokenizer.json": json.dumps(facts).encode()})


# Non-finite weights


@pytest.mark.parametrize(
    "dtype, bad",
    [(np.float32, np.nan), (ml_dtypes.bfloat16, np.inf), (np.float16, np.nan), (float, -np.inf)],
)
def test_non_finite_weights_are_not_imported(dtype, bad, tmp_path):
    values = {n: v.astype(dtype) for n, v in VALUES.items()}
    values[UP][3, 5] = bad
    hf = open_models.write(tmp_path / "hf", values, files=2)
    file = json.loads((hf / "model.safetensors.index.json").read_text())["weight_map"][UP]
    assert f"{file}: {UP} holds NaN or infinity" in refused(convert.load, hf)
    assert UP in refused(convert.import_model, str(hf), tmp_path / "run", dtype="float32")
    assert not (tmp_path / "run").exists()


def params_of(hf):
    return convert.load(hf)[1]


def test_non_finite_weights_are_not_loaded_or_exported(hf_dir, tmp_path):
    params = params_of(hf_dir)
    params["layers"]["up"] = params["layers"]["up"].at[1, 2, 3].set(np.nan)
    work = tmp_path / "run"
    work.mkdir()
    HFTokenizer(open_tokenizers.files()).save(work / "tokenizer")
    save_role(work, "policy", params)
    for function in (checkpoint.load, lambda w: export.export_model(w, tmp_path / "out")):
        said = refused(function, work)
        assert "checkpoint 1, holds NaN or infinity in its weights policy/layers/up" in said
        assert str(work) in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bad", ["policy", "opt_state"])
def test_a_run_is_not_resumed_from_non_finite_numbers(bad, tmp_path):
    values = dict.fromkeys(("policy", "opt_state"), jnp.ones(3)) | {bad: jnp.array([1, np.nan, 2])}
    state = TrainState(
        jnp.int32(4), {"policy": {"up": values["policy"]}}, {"mu": values["opt_state"]},
        {"row": np.int32(1)},
    )  # fmt: skip
    checkpointer = checkpoint.Checkpointer(tmp_path, keep=1)
    checkpointer.save(state, {})
    checkpointer.wait()
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    said = refused(checkpointer.restore, 4, abstract)
    assert "checkpoints/4 holds NaN" in said and f" {bad}/" in said
    checkpointer.close()


def test_what_float16_cannot_hold_is_not_exported(tmp_path):
    tensor = weights.Tensor(UP, (2,), lambda: np.array([1, 70_000], np.float32))
    said = refused(weights.write_safetensors, tmp_path, [tensor], "float16")
    assert UP in said and "--dtype=bfloat16" in said
    tensor = weights.Tensor(UP, (2,), lambda: np.array([1, np.nan], np.float32))
    assert f"{UP} holds NaN" in refused(weights.write_safetensors, tmp_path, [tensor], "bfloat16")


# Dtypes, shards, and what was cut off


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_export_has_the_dtype_of_its_source(dtype, tmp_path):
    kind = weights.DTYPES[dtype]
    values = {n: v.astype(kind) for n, v in VALUES.items()}
    hf = open_models.write(tmp_path / "hf", values)
    convert.import_model(str(hf), tmp_path / "base")
    # A run that began as it.
    run = tmp_path / "run"
    (tmp_path / "base").rename(tmp_path / "moved")
    run.mkdir()
    for name in ("models.json", "tokenizer", "checkpoints"):
        (tmp_path / "moved" / name).rename(run / name)
    facts = {"stage": "sft", "init_from": {"policy": str(tmp_path / "moved")}}
    (run / "config.json").write_text(json.dumps(facts))
    assert export.export_model(run, tmp_path / "out") == dtype
    found = stored(tmp_path / "out")
    for name, value in values.items():
        assert found[name].dtype == kind
        np.testing.assert_array_equal(found[name], value)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype


def test_bfloat16_is_rounded_as_numpy_rounds(run, tmp_path):
    export.export_model(run, tmp_path / "out", dtype="bfloat16")
    for name, value in stored(tmp_path / "out").items():
        np.testing.assert_array_equal(value, VALUES[name].astype(ml_dtypes.bfloat16), name)


@pytest.mark.parametrize(
    "text, size",
    [("5GB", 5 * 10**9), ("500MB", 5 * 10**8), ("1.5kb", 1500), ("123", 123), ("0", 0),
     ("-1GB", 0), ("nan", 0), ("GB", 0), ("5 elephants", 0)],
)  # fmt: skip
def test_shard_sizes(text, size):
    if size:
        assert export.shard_bytes(text) == size
    else:
        assert "--shard_size" in refused(export.shard_bytes, text)


def tree(directory):
    return {p.name: p.read_bytes() for p in sorted(directory.iterdir())}


def test_a_killed_export_is_finished_by_the_same_command(run, tmp_path, monkeypatch):
    command = run, tmp_path / "out", "", "", None, 20_000
    export.export_model(*command[:1], tmp_path / "whole", *command[2:])
    for last in (0, 2):
        with monkeypatch.context() as patch:
            write, calls = weights.safetensors_files.write, []

            def killed(path, tensors, dtype, write=write, calls=calls, last=last):
                calls.append(path)
                if len(calls) > last:
                    path.write_bytes(b"half")
                    raise KeyboardInterrupt  # as a kill, nothing is cleared up
                write(path, tensors, dtype)

            patch.setattr(weights.safetensors_files, "write", killed)
            with pytest.raises(KeyboardInterrupt):
                export.export_model(*command)
    assert not (tmp_path / "out" / "config.json").exists()
    said = refused(export.export_model, run, tmp_path / "out", dtype="bfloat16")
    assert "left unfinished" in said
    export.export_model(*command)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert "is not empty" in refused(export.export_model, *command)


def test_a_killed_import_is_finished_by_the_same_command(hf_dir, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:

        def killed(workdir, params, facts):
            (workdir / "checkpoints" / "0.orbax-checkpoint-tmp").mkdir(parents=True)
            raise KeyboardInterrupt

        patch.setattr(convert, "_save", killed)
        with pytest.raises(KeyboardInterrupt):
            convert.import_model(str(hf_dir), run)
    said = refused(convert.import_model, str(hf_dir), run, dtype="bfloat16")
    assert "left unfinished" in said
    convert.import_model(str(hf_dir), run)
    jax.tree.map(np.testing.assert_array_equal, checkpoint.load(run)[1], params_of(hf_dir))
    assert not (run / unfinished.MARK).exists() and len([*(run / "checkpoints").iterdir()]) == 1
    assert "holds a run already" in refused(convert.import_model, str(hf_dir), run)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert "is not empty" in refused(convert.import_model, str(hf_dir), tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    assert "is a file" in refused(convert.import_model, str(hf_dir), tmp_path / "mine/notes.txt")


# One parameter at a time


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_parameters_one_by_one_are_those_of_a_load(dtype, run, tmp_path):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    whole = checkpoint.abstract_params("policy", CONFIG, mesh)
    settings = configs.default()
    settings.lora.rank, settings.freeze.dtype = 2, dtype
    part = parts_.divide(configs.build(settings), {"policy": whole})["policy"]
    rng = np.random.default_rng(0)
    trained = jax.tree.map(
        lambda x: jax.device_put(rng.standard_normal(x.shape).astype(np.float32), x.sharding),
        part.trained(whole),
    )
    work = tmp_path / "run"
    work.mkdir()
    save_role(work, "policy", trained)
    _, found = checkpoint.load_base(run, "policy", "policy", whole)
    origin = {"from": str(run), "role": "policy", "fingerprint": found}
    checkpoint.save_parts(work, {"policy": part}, {"policy": origin})
    wanted = checkpoint.load_params(work, "policy", whole)
    leaves = Leaves(work, "policy", whole)
    assert leaves.fingerprint() == checkpoint.identity(work, "policy", wanted)
    assert Leaves(run, "policy", whole).fingerprint() == found
    for path in jax.tree_util.tree_leaves_with_path(wanted):
        keys = tuple(k.key for k in path[0])
        np.testing.assert_array_equal(leaves.read(keys), path[1])


def test_specialise_adapts_dense_models_and_mixtures():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    recipe = specialise.get_config()
    settings = LoRA(**recipe.lora)
    for more in ({}, dict(num_experts=4, experts_per_token=2)):
        config = dataclasses.replace(CONFIG, **more)
        whole = checkpoint.abstract_params("policy", config, mesh)
        run = configs.default()
        run.lora = recipe.lora
        part = parts_.divide(configs.build(run), {"policy": whole})["policy"]
        names = {path[-1] for path in part.adapted}
        mlp = ("gate", "up", "down")
        wanted = {f"expert_{n}" for n in mlp} if more else set(mlp)
        assert part.lora == settings and names == wanted | {"query", "key", "value", "out"}


# GGUF


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_gguf(path, "llama", CONFIG, VALUES)
    return path


def test_damaged_gguf_files_are_one_line(gguf_file, tmp_path):
    content, rng = gguf_file.read_bytes(), np.random.default_rng(0)
    header = content.index(b"blk.") + 2000
    path = tmp_path / "x.gguf"
    for number in range(150):
        damaged = bytearray(content)
        if number % 3:
            for at in rng.integers(4, header, 1 + number % 4):
                damaged[at] = rng.integers(256)
        else:
            damaged = damaged[: rng.integers(len(content))]
        path.write_bytes(damaged)
        try:
            convert.open_source(str(path))
        except ConfigError as e:
            assert str(path) in str(e) and "\n" not in str(e) and len(str(e)) < 700
    path.write_bytes(content[:-10])
    assert "broke off" in refused(convert.load, path)
    path.write_bytes(LFS)
    assert "pointer of Git LFS" in refused(convert.load, path)


def test_gguf_weights_that_are_no_numbers_or_of_unknown_types(tmp_path):
    values = VALUES | {UP: np.full_like(VALUES[UP], np.nan)}
    write_gguf(tmp_path / "nan.gguf", "llama", CONFIG, values)
    said = refused(convert.load, tmp_path / "nan.gguf")
    assert f"nan.gguf: {UP} holds NaN" in said
    write_gguf(tmp_path / "a.gguf", "llama", CONFIG, VALUES)
    model = gguf_files.GGUFModel(tmp_path / "a.gguf")
    stored_as = gguf.GGMLQuantizationType.I32
    model._tensors["output.weight"] = model._tensors["output.weight"]._replace(
        tensor_type=stored_as
    )
    assert "stored as I32" in refused(model.read, "lm_head.weight")


@pytest.mark.slow
def test_a_vocabulary_of_150_000_tokens_is_read_in_seconds(tmp_path):
    writer = gguf.GGUFWriter(str(tmp_path / "v.gguf"), "llama")
    config = dataclasses.replace(CONFIG, vocab_size=150_000)
    letters = list(byte_alphabet())
    words, merges = [*letters], []
    for word in words:  # which grows
        room = config.vocab_size - 2 - len(words)
        words += [word + letter for letter in letters[:room]]
        merges += [f"{word} {letter}" for letter in letters[:room]]
        if not room:
            break
    tokens = ["<s>", "</s>", *words]
    for name, value in dict(
        block_count=2, embedding_length=16, feed_forward_length=24, context_length=64,
        head_count=4, head_count_kv=2, key_length=8, layer_norm_rms_eps=1e-5,
        tokenizer_model="gpt2", tokenizer_pre="gpt-2", token_list=tokens, token_merges=merges,
        token_types=[3, 3] + [1] * (len(tokens) - 2), bos_token_id=0, eos_token_id=1,
    ).items():  # fmt: skip
        getattr(writer, f"add_{name}")(value)
    table = gguf.get_tensor_name_map(gguf_files.ARCHITECTURES["llama"], 2)
    for name, value in open_models.tensors(config).items():
        writer.add_tensor(table.get_name(name, (".weight", ".bias")), value)
    for step in ("write_header", "write_kv_data", "write_tensors"):
        getattr(writer, f"{step}_to_file")()
    writer.close()
    begun = time.time()
    assert convert.open_source(str(tmp_path / "v.gguf")).tokenizer.vocab_size == 150_000
    assert time.time() - begun < 10


# Memory

PEAK = """
    import resource, sys
    import jax, jax.numpy as jnp
    from train import export
    jnp.ones(3).block_until_ready()
    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    before = peak()
    export.export_model(sys.argv[1], sys.argv[2])
    print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_an_export_holds_little_beside_its_tensors(dtype, tmp_path):
    layers = 11 if dtype is np.float32 else 23
    config = dataclasses.replace(
        CONFIG, vocab_size=16_000, embed_dim=768, num_layers=layers, num_heads=12, num_kv_heads=12,
        head_dim=64, mlp_dim=2816,
    )  # fmt: skip
    values = open_models.tensors(config, dtype)
    size = sum(v.nbytes for v in values.values())
    hf = open_models.write(tmp_path / "hf", values, config)
    del values
    convert.import_model(str(hf), tmp_path / "run")
    script = tmp_path / "peak.py"
    script.write_text(textwrap.dedent(PEAK))
    done = subprocess.run(
        [sys.executable, script, tmp_path / "run", tmp_path / "out"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) < 1.3 * size


def test_flags_that_a_command_does_not_read_are_named():
    assert convert.unread("import", {"from", "workdir", "item", "v"}) == ["item"]
    assert convert.unread("export", {"workdir", "to", "chat_template"}) == ["chat_template"]
    given = {"workdir", "to", "adapter", "dtype", "shard_size", "logtostderr"}
    assert convert.unread("export --adapter", given) == ["dtype", "shard_size"]
    assert not convert.unread("export", given)
