"""Records that cannot be used, wherever that shows: read, mapped to a schema, or rendered."""

from __future__ import annotations

from collections import Counter

from data.errors import DataError


class BadRecords:
    """Raises for a record that cannot be used, or counts it.

    Args:
      on_bad: "error" raises at the first; "skip" counts, and raises once there are more than
        `max_bad`. skipped: the count by reason, which may have begun elsewhere.
    """

    def __init__(
        self, on_bad: str = "error", max_bad: int = 0, skipped: Counter[str] | None = None
    ):
        self.skipped = Counter() if skipped is None else skipped
        self._skip, self._max_bad = on_bad == "skip", max_bad
        self._first: list[str] = []

    def add(self, where: str, error: ValueError) -> None:
        """Takes note of what is wrong with the record read at `where` ("path:line").

        Raises:
          DataError: it is not to be skipped, or the source itself is at fault (no `reason`).
        """
        # A tokenizer or a chat template raises what is no DataError.
        reason = getattr(error, "reason", "not_rendered")
        if not reason:
            raise DataError(f"{where}: {error}") from None
        if not self._skip:
            hint = "Mend it, or set --config.data.on_bad=skip to leave such records out, counted."
            raise DataError(f"{where}: {error}\n{hint}", reason) from None
        self.skipped[reason] += 1
        if len(self._first) < 3:
            self._first.append(f"{where}: {error}")
        if self.skipped.total() > self._max_bad:
            raise DataError(
                f"more than max_bad={self._max_bad} bad records{self.summary()}\n"
                "Mend the data, or raise max_bad if so many are to be left out."
            ) from None

    def summary(self) -> str:
        """The counts and the first few, to follow an error's text; "" where there are none."""
        if not self.skipped:
            return ""
        counts = ", ".join(f"{reason}: {n}" for reason, n in sorted(self.skipped.items()))
        if not self._first:
            return f" ({counts})"
        return "\n  ".join([f" ({counts}). The first:", *self._first])
