"""A scorer without a model: the likeliest continuation is the first in alphabetical order."""

from train.tasks.base import Scored


class FakeScorer:
    """Answers two requests at once, the last ones first, as a batch.

    Args:
      last: number of answers after which it is interrupted; -1 for never.

    Attributes:
      computed: numbers of the requests of the batches that were computed.
    """

    def __init__(self, last=-1):
        self.last, self.computed = last, []

    def answer(self, params, requests, report=None, seed=0, done=frozenset()):
        numbers = range(len(requests) - 1, -1, -1)
        for start in range(0, len(requests), 2):
            batch = numbers[start : start + 2]
            if done.issuperset(batch):
                continue
            self.computed += batch
            for number in batch:
                if not self.last:
                    raise KeyboardInterrupt
                self.last -= 1
                texts = [c.text for c in requests[number].continuations]
                ranks = [sorted(texts).index(text) for text in texts]
                yield number, tuple(Scored(-0.1 - rank * params, rank == 0, 1) for rank in ranks)
