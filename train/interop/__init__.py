"""Open models in and out: safetensors, GGUF, peft."""
