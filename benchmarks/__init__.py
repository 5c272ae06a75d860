"""Benchmarks run as commands do, so their libraries get the same settings, before a benchmark imports torch."""

from pipeline.process import set_defaults_of_libraries

set_defaults_of_libraries()
