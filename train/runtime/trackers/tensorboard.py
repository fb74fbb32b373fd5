"""TensorBoard's event files: scalars, hyperparameters, and texts.

A file lies in the workdir itself, so that `tensorboard --logdir=runs` calls the run `runs/first` by
its name, `first`. This is the only module that imports `tensorboard`, which takes a while.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2
from tensorboard.summary.writer.record_writer import RecordWriter

from train.runtime import outputs, strict_json
from train.runtime.trackers.base import Target, Tracker

# Texts are shown whole, and every file is read by the browser; samples.jsonl has all of them.
MOST_SAMPLES, MOST_CHARACTERS = 8, 4000


class TensorBoard(Tracker):
    """The events of one attempt at a run; a further file where it goes back."""

    def __init__(self, target: Target):
        self._name, self._folder = target.name, target.workdir
        self._open(target.start)

    def _open(self, start: int) -> None:
        """Opens a file for the steps after `start`; TensorBoard drops later events of earlier
        files."""
        self._start = start
        # TensorBoard reads the files of a folder in the order of their names.
        file = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._records = outputs.Records(self._folder / file)
        self._add(file_version="brain.Event:2")
        self._add(step=start + 1, session_log=SessionLog(status=SessionLog.START))

    def go_back(self, step: int) -> None:
        self._records.close()
        self._open(step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds scalars."""
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._add(step=step, summary=Summary(value=scalars))

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Adds settings, {dotted name: value}, as a text and as hyperparameters, beside which
        TensorBoard shows the run's last metrics."""
        self._add_text(self._start, "settings", settings_table(settings))
        values = {k: v if _is_plain(v) else strict_json.dumps(v) for k, v in settings.items()}
        self._add(summary=summary_v2.hparams_pb(values, trial_id=self._name))

    def write_samples(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """Adds samples, as a text for each evaluation that they are of."""
        by_name: dict[str, list] = {}
        for sample in samples:
            by_name.setdefault(sample.get("eval", ""), []).append(sample)
        for name, own in by_name.items():
            self._add_text(step, f"{name}/samples" if name else "samples", samples_text(own))

    def close(self, finished: bool) -> None:
        """Closes the file; `finished`: whether the run has taken its last step."""
        status = api_pb2.STATUS_SUCCESS if finished else api_pb2.STATUS_UNKNOWN
        end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
        content = plugin_data_pb2.HParamsPluginData(session_end_info=end)
        value = Summary.Value(
            tag=metadata.SESSION_END_INFO_TAG,
            metadata=metadata.create_summary_metadata(content),
            tensor=metadata.NULL_TENSOR,
        )
        self._add(summary=Summary(value=[value]))
        self._records.close()

    def _add_text(self, step: int, tag: str, text: str) -> None:
        """Adds Markdown, which TensorBoard strips of HTML."""
        tensor = TensorProto(
            dtype=DT_STRING, string_val=[text.encode(errors="replace")],
            tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
        )  # fmt: skip
        kind = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        value = Summary.Value(tag=f"{tag}/text_summary", tensor=tensor, metadata=kind)
        self._add(step=step, summary=Summary(value=[value]))

    def _add(self, **content) -> None:
        event = Event(wall_time=time.time(), **content)
        RecordWriter(self._records).write(event.SerializeToString())


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)


def settings_table(settings: Mapping[str, Any]) -> str:
    """Settings {name: value} as TSV in a Markdown code block, which TensorBoard shows verbatim.
    Values are JSON, so that none holds a tab or a line break."""
    lines = [f"{name}\t{strict_json.dumps(x, ensure_ascii=False)}" for name, x in settings.items()]
    return "\n".join(["```", "setting\tvalue", *lines, "```"])


def samples_text(samples: Sequence[Mapping[str, Any]]) -> str:
    """Samples as Markdown: the name of each field, and its text verbatim in a code block."""
    parts = []
    for number, sample in enumerate(samples[:MOST_SAMPLES], 1):
        parts.append(f"### {number}")
        for name, value in sample.items():
            text = value if isinstance(value, str) else strict_json.dumps(value, ensure_ascii=False)
            if len(text) > MOST_CHARACTERS:
                text = f"{text[:MOST_CHARACTERS]} …"
            longest = max(map(len, re.findall("`+", text)), default=0)
            fence = "`" * max(3, longest + 1)
            parts.append(f"{name}\n\n{fence}\n{text}\n{fence}")
    if len(samples) > MOST_SAMPLES:
        parts.append(f"{len(samples) - MOST_SAMPLES} more are in samples.jsonl")
    return "\n\n".join(parts)
