"""Our sampler beside `transformers.generate` (`python -m benchmarks.sample`)."""
