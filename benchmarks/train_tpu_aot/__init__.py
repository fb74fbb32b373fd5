"""Train steps by the TPU compiler beside MaxText's (`python -m benchmarks.train_tpu_aot`)."""
