"""Text in, dataset out: shards of whole sentences as lexicon ids, a lexicon of every word, an index.

`prepare.prepare` makes a dataset, `dataset.open.open_dataset` reads it, `dataset.verify.verify` checks it: README.md.
"""
