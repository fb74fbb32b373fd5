"""Training in 8 bits (`model.matmul`): losses of small runs, predicted steps of a large model."""
