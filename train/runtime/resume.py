"""Check that a resumed run is the run that was saved."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from etils import epath
from flax.traverse_util import flatten_dict

from ranges import ConfigError
from train.assemble import Run, config_json
from train.config.model import read_saved
from train.config.names import RENAMED
from train.config.run import run_class

# Settings that a resumed run may change, as they alter neither the weights nor the data.
FREE_TO_CHANGE = ("plugins", "mesh.", "evaluate.", "evals.", "checkpoint.", "log_every",
                  "init_from.", "tokenizer.", "rewards.on_error", "rewards.max_errors")  # fmt: skip


# Settings with the location of data, which may change as long as its rows do not.
LOCATIONS = re.compile(
    r"(data|pretrain_data)\.((mixture|decontaminate)\.[^.]+\.source|source|heldout_source|tfds_dir)"
)


def check_resume(
    workdir: epath.PathLike,
    meta: Mapping[str, Any],
    run: Run,
    config_text: str,
    allow_data_change: bool = False,
) -> list[str]:
    """Refuses to resume a run that is not the one that was saved; returns the names of data whose
    rows have changed. Those of `config.evals` may always change: nothing is trained on them.

    Args:
      meta: of the checkpoint. config_text: the run's settings as JSON.

    Raises:
      ConfigError: the frozen models have changed (which would change every KL and score), or the
        settings, the tokenizer or, unless `allow_data_change`, the rows.
    """
    origins = run.origins
    for role, origin in meta["frozen"].items():
        if origins.get(role, {}).get("fingerprint") != origin["fingerprint"]:
            raise ConfigError(
                f"{workdir} was trained with the {role} of {origin['from']} "
                f"({origin['fingerprint']}), and init_from now gives another. Restore that one, "
                "or use a new --workdir"
            )
    content = meta.get("content", {})  # empty in old runs, whose data is identified by its location

    def free(key: str) -> bool:
        is_location = LOCATIONS.fullmatch(key) is not None
        return key.startswith(FREE_TO_CHANGE) or (is_location and bool(content))

    texts = config_json(run_class()()), meta["config"], config_text
    defaults, saved, settings = (flatten_dict(json.loads(text), sep=".") for text in texts)
    saved = {RENAMED.get(key, key): value for key, value in read_saved(saved).items()}
    # A setting that did not exist yet had the effect of its default.
    saved = {key: defaults[key] for key in defaults.keys() & settings.keys()} | saved
    differences = [
        f"{key}: {saved.get(key)!r} -> {settings.get(key)!r}"
        for key in sorted(saved.keys() | settings.keys())
        if saved.get(key) != settings.get(key) and not free(key)
    ]
    if differences:
        raise ConfigError(
            f"{workdir} was begun with another config ({'; '.join(differences)}). Use a new "
            "--workdir, or the old settings"
        )
    changed = [name for name, hash_ in run.content.items() if content.get(name, hash_) != hash_]
    if "tokenizer" in changed:
        raise ConfigError(
            f"{workdir} was begun with another tokenizer ({content['tokenizer']}) than there is "
            f"now ({run.content['tokenizer']}): ids would mean other text. Restore "
            f"{workdir}/tokenizer, or use a new --workdir"
        )
    decisive = [name for name in changed if not name.startswith("evals.")]
    if decisive and not allow_data_change:
        raise ConfigError(
            f"the rows of {' and '.join(decisive)} differ from those that {workdir} was begun "
            "with: files were changed or replaced, or are read in another way. Restore the old "
            "ones, use a new --workdir, or continue with the new rows: --allow_data_change"
        )
    return changed
