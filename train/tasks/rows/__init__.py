"""The benchmarks that come with Seedpod, a file for each kind."""
