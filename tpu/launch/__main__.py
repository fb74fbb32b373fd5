"""The command `python -m tpu.launch`: tpu/launch/launch.py."""

import sys

from tpu.launch.launch import main
from train.runtime import outputs

if __name__ == "__main__":
    outputs.guard()
    sys.exit(main())
