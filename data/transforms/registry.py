"""Every row of TRANSFORMS: importing this file registers them."""

from data.transforms import mail, records, roles, turns  # noqa: F401
from data.transforms.base import TRANSFORMS, Change, root, value_at

__all__ = ["TRANSFORMS", "Change", "root", "value_at"]
