"""Training and decoding a 1B Llama on a GPU, beside PyTorch (`python -m benchmarks.train_gpu`)."""
