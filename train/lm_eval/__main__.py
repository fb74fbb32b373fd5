"""lm-evaluation-harness with our models, as its model `seedpod` (train/lm_eval/model.py).

    python -m train.lm_eval --model seedpod --model_args workdir=runs/base --tasks piqa
    python -m train.lm_eval --model seedpod --model_args workdir=runs/sft@600 --tasks gsm8k

Every flag and task is the harness's; `--help` lists the flags.
"""

import importlib.util

from ranges import ConfigError
from train import cli


def main() -> None:
    with cli.expected_errors():
        if importlib.util.find_spec("lm_eval") is None:
            raise ConfigError("this needs lm-evaluation-harness: pip install 'lm-eval>=0.4.13'")
        from train.lm_eval import model

        model.run()


if __name__ == "__main__":
    main()
