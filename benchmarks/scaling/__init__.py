"""A law of held-out perplexity against parameters and tokens: its runs and its fit."""
