"""An exported file -> detections, with numpy, Pillow and onnxruntime alone."""

from .found import Found as Found
from .runtime import Runtime as Runtime
