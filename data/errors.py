"""The error that bad input data raises."""


class DataError(ValueError):
    """Bad input data. The message is for the person: what, where (file:line), why, what to type.

    `reason` is a short stable name where one record is at fault, so that it can be counted and
    skipped; it is "" where the source itself is at fault.
    """

    def __init__(self, message, reason=""):
        super().__init__(message)
        self.reason = reason
