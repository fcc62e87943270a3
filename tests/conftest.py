"""Property tests draw the same examples in every run; `pytest --hypothesis-profile=default` draws new ones."""

import gc

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

gc.set_threshold(50_000, 10, 10)  # Python's 700 costs a twentieth of the suite, most of it in traces for export
