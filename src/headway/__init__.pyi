"""The public face for type checkers and editors; `__init__.py` imports each name when it is first used."""

from . import convert as convert
from . import runtime as runtime
from .checkpoint import load as load
from .checkpoint import save as save
from .compare.api import compare as compare
from .data.sample import Sample as Sample
from .detections import Detections as Detections
from .detector import Detector as Detector
from .errors import HeadwayError as HeadwayError
from .evaluate.api import evaluate as evaluate
from .export.api import export as export
from .factory import compose as compose
from .factory import create_model as create_model
from .factory import list_models as list_models
from .layers.fuse import fuse as fuse
from .predict.predictor import predict as predict
from .registry import list_parts as list_parts
from .registry import register_backbone as register_backbone
from .registry import register_head as register_head
from .registry import register_neck as register_neck
from .track.api import track as track
from .track.tracker import Tracker as Tracker
from .train.api import train as train
from .types import Candidates as Candidates
from .types import Frame as Frame
from .types import Levels as Levels
from .types import Losses as Losses
from .types import ModelCard as ModelCard
from .types import Target as Target

__version__: str
