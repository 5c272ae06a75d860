"""The version of elmo-pipeline, apart so that anything may import it."""

__version__ = "0.1.0"
