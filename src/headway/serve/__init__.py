"""An HTTP service and a page around a detector: a checkpoint, or an exported file without torch."""
