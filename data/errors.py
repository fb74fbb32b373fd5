"""The error that bad input data raises."""


class DataError(ValueError):
    """Bad input data. The message says what is wrong, where (file:line), why, and what to type.

    Attributes:
      reason: a short stable name if one record is bad, so that it can be counted and skipped; "" if
        the source itself is at fault.
    """

    def __init__(self, message: str, reason: str = ""):
        super().__init__(message)
        self.reason = reason


def with_flags(error: DataError) -> DataError:
    """The error in a command that has the flags --fields, --records and --transforms in place of
    the settings of these names."""
    text = str(error)
    for name, end in (("fields", "."), ("transforms", "."), ("records", "=")):
        text = text.replace(f"--config.data.{name}{end}", f"--{name}=")
    return DataError(text, error.reason)
