"""Pretrain, evaluate and use ELMo's bidirectional language model (Peters et al., 2018)."""

__version__ = "0.1.0"
