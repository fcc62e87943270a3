"""The verbs of the command line, one file each: a dataclass whose fields are the options and whose `run` returns the
exit code. Nothing slow is imported before `run`, so that help answers at once."""
