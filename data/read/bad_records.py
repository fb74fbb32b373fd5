"""Records that cannot be used, because they cannot be read, mapped to a schema, or rendered."""

from __future__ import annotations

from collections import Counter

from data.errors import DataError


class BadRecords:
    """Raises an error for a bad record, or counts it.

    Args:
      on_bad: "error" raises at the first; "skip" counts, and raises once there are more than
        `max_bad`. skipped: the counts by reason, which may include earlier ones.
    """

    def __init__(
        self, on_bad: str = "error", max_bad: int = 0, skipped: Counter[str] | None = None
    ):
        self.skipped = Counter() if skipped is None else skipped
        self._skip, self._max_bad = on_bad == "skip", max_bad
        self._first: list[str] = []

    def add(self, location: str, error: ValueError) -> None:
        """Counts the bad record read at `location` ("path:line").

        Raises:
          DataError: records are not to be skipped, or the source itself is at fault (no `reason`).
        """
        # A tokenizer raises a ValueError without a reason.
        reason = getattr(error, "reason", "not_rendered")
        if not reason:
            raise DataError(f"{location}: {error}") from None
        if not self._skip:
            hint = "Fix it, or set --config.data.on_bad=skip to leave such records out, counted."
            raise DataError(f"{location}: {error}\n{hint}", reason) from None
        self.skipped[reason] += 1
        if len(self._first) < 3:
            self._first.append(f"{location}: {error}")
        if self.skipped.total() > self._max_bad:
            raise DataError(
                f"more than max_bad={self._max_bad} bad records{self.summary()}\n"
                "Fix the data, or raise max_bad if so many are to be left out."
            ) from None

    def summary(self) -> str:
        """The counts and the first few records, to append to an error; "" if there are none."""
        if not self.skipped:
            return ""
        counts = ", ".join(f"{reason}: {n}" for reason, n in sorted(self.skipped.items()))
        if not self._first:
            return f" ({counts})"
        return "\n  ".join([f" ({counts}). The first:", *self._first])
