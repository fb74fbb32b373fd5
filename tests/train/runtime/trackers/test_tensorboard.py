"""Event files, read back by TensorBoard's own code."""

import json
import re

from tensorboard import plugin_util
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import api_pb2, metadata

from train.runtime.metrics import Metrics
from train.runtime.trackers.tensorboard import MOST_SAMPLES, samples_text

SETTINGS = {
    "optimizer.peak_lr": 1e-3, "data.fields.prompt": "{a}\t|{b}\n```<b>é", "x": None, "on": True,
    "source": ["a", "b"],
}  # fmt: skip


def run(workdir, start: int, steps, last: int = 3) -> None:
    metrics = Metrics(workdir, start, last)
    metrics.write_settings(SETTINGS)
    for step in steps:
        metrics.write(step, "train", {"loss": 1.0 / step, "learning_rate": 0.1 * step})
        metrics.write_samples(step, [{"prompt": "Why?", "response": f"# {step}", "score": 0.5}])
    metrics.close()


def text_of(events: EventAccumulator, tag: str, number: int = 0) -> str:
    event = events.Tensors(f"{tag}/text_summary")[number]
    return event.tensor_proto.string_val[0].decode()


def test_a_run_has_its_name_and_its_steps_once(tmp_path):
    run(tmp_path / "runs/first", 0, (1, 2, 3))
    run(tmp_path / "runs/chain/sft", 0, (1, 2))
    run(tmp_path / "runs/chain/sft", 1, (2, 3))  # the step after the checkpoint is repeated
    loaded = EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "runs")).Reload()
    assert set(loaded.Runs()) == {"first", "chain/sft"}
    for name in loaded.Runs():
        rates = loaded.Scalars(name, "train/learning_rate")
        assert [event.step for event in rates] == [1, 2, 3]


def test_settings_are_a_table_and_hyperparameters(tmp_path):
    run(tmp_path / "first", 0, (1, 2, 3))
    events = EventAccumulator(str(tmp_path / "first")).Reload()
    text = text_of(events, "settings")
    fence, head, *rows, end = text.split("\n")
    assert fence == end == "```" and head == "setting\tvalue"
    assert {k: json.loads(v) for k, v in (row.split("\t") for row in rows)} == SETTINGS
    html = plugin_util.markdown_to_safe_html(text)
    assert html.startswith("<pre>") and re.search(r"\noptimizer\.peak_lr\s+0\.001\n", html)
    assert "&lt;b&gt;" in html and "<b>" not in html

    contents = events.PluginTagToContent("hparams")
    start = metadata.parse_session_start_info_plugin_data(contents[metadata.SESSION_START_INFO_TAG])
    assert start.group_name == "first"
    values = start.hparams
    assert values["optimizer.peak_lr"].number_value == 1e-3 and values["on"].bool_value is True
    assert values["x"].string_value == "null" and values["source"].string_value == '["a", "b"]'
    end = metadata.parse_session_end_info_plugin_data(contents[metadata.SESSION_END_INFO_TAG])
    assert end.status == api_pb2.STATUS_SUCCESS


def test_a_run_that_was_stopped_is_no_success(tmp_path):
    run(tmp_path / "first", 0, (1, 2))
    contents = EventAccumulator(str(tmp_path / "first")).Reload().PluginTagToContent("hparams")
    end = metadata.parse_session_end_info_plugin_data(contents[metadata.SESSION_END_INFO_TAG])
    assert end.status == api_pb2.STATUS_UNKNOWN


def test_samples_are_texts(tmp_path):
    run(tmp_path / "first", 0, (1, 2, 3))
    events = EventAccumulator(str(tmp_path / "first")).Reload()
    html = plugin_util.markdown_to_safe_html(text_of(events, "samples", 2))
    assert "<pre><code># 3\n</code></pre>" in html and "Why?" in html and "0.5" in html


def test_samples_are_verbatim_and_few():
    text = "a\n```\n<b>*b*</b> ````"
    shown = samples_text([{"text": text}] * (MOST_SAMPLES + 2) + [{"text": "unseen"}])
    html = plugin_util.markdown_to_safe_html(shown)
    assert html.count("<pre><code>a\n```\n&lt;b&gt;*b*&lt;/b&gt; ````\n</code>") == MOST_SAMPLES
    assert "3 more are in samples.jsonl" in html and "unseen" not in html
    assert len(samples_text([{"text": "long" * 10_000}])) < 5000
