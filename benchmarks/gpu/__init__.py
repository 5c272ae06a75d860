"""The check and measurement of a GPU: python -m benchmarks.gpu."""
