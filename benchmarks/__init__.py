"""Give a benchmark's libraries the settings that commands have, before the benchmark imports torch."""

from pipeline.process import set_defaults_of_libraries

set_defaults_of_libraries()
