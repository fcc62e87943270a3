"""Prediction over very many pictures: a plan of shards, processes that work on them, and one merged result.

A shard is the unit. Its part is a file that appears whole or not at all, so that a job which was killed goes on with
the shards that have no part yet. Nothing here imports torch but `detectors`, in a worker process.
"""

from .merge import merge as merge
from .plan import Plan as Plan
from .plan import Settings as Settings
from .plan import make_plan as make_plan
from .runners import run_local as run_local
