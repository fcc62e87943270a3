"""What a detector does, drawn on a photograph or as curves: one file per view, usable from Python and as a command."""
