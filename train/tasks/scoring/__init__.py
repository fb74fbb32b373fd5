"""The scorer: log-likelihoods of continuations and of whole texts, and generated answers."""
