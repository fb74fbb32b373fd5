"""The baseline of benchmarks/real/rewards.py: a logistic regression on word counts.

    python rewards_side.py TRAIN.jsonl HELDOUT.jsonl

Prints {"gaps": the decision value of each held-out pair, "C": the inverse strength of its penalty}.
Runs in its own environment, and imports nothing of Seedpod.
"""

import json
import sys

import numpy as np
from scipy.sparse import vstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score

STRENGTHS = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)


def read(path: str) -> tuple[list, list, list[int]]:
    """(better answers, worse answers, the number of each pair's ranking)."""
    better, worse, groups = [], [], []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            record = json.loads(line)
            rank, texts = record["rank"], record["responses"]
            for i, a in enumerate(rank):
                for j, b in enumerate(rank):
                    if a < b:
                        better.append(texts[i])
                        worse.append(texts[j])
                        groups.append(number)
    return better, worse, groups


def main(train: str, heldout: str) -> None:
    better, worse, groups = read(train)
    # Punctuation counts as words, because arithmetic consists of it.
    counts = CountVectorizer(token_pattern=r"[^\s\w]|\w+").fit(better + worse)

    def differences(better, worse):
        return counts.transform(better) - counts.transform(worse)

    x = differences(better, worse)
    # Each pair in both orders, so that the order carries no information.
    both, label = vstack([x, -x]), np.repeat([1, 0], x.shape[0])

    def model(strength):
        return LogisticRegression(C=strength, fit_intercept=False, max_iter=5000)

    folds = list(GroupKFold(5).split(both, label, groups * 2))
    means = [cross_val_score(model(c), both, label, cv=folds).mean() for c in STRENGTHS]
    best = STRENGTHS[int(np.argmax(means))]
    better, worse, _ = read(heldout)
    gaps = model(best).fit(both, label).decision_function(differences(better, worse))
    json.dump({"gaps": gaps.tolist(), "C": best}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
