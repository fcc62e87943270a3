"""`headway convert`: somebody else's checkpoint to ours."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from ..errors import CheckpointError, HeadwayError
from .common import UsageError, say, show, show_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Convert:
    """Turn a published checkpoint into headway's format. Pickled files are read without running any code in them."""

    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """The checkpoint: a .pth, .pt, .pkl, .pdparams, .weights or .safetensors file."""
    model: str = ""
    """The architecture that it is, with its tag: atss_r50_fpn_dyhead.mmdet (`headway models` lists the tags)."""
    source: str = ""
    """Whose names the file uses: mmdet, detectron2, torchvision, ..., or headway for a state dict of a model of ours.
    Default: what the tag says."""
    class_names: tuple[str, ...] = ()
    """Class names by label. Default: COCO's 80, or as many as the file has, with the names that it may hold."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """File to write. Default: the model's name with .safetensors, in the current folder."""
    overwrite: bool = False
    """Replace the file if it is there."""
    json: bool = False
    """Print what was written as JSON."""

    def run(self) -> int:
        if not self.model:
            raise UsageError("say which architecture the file is: --model atss_r50_fpn_dyhead.mmdet, for example")
        out = self.out or Path(f"{self.model}.safetensors")
        if out.exists() and not self.overwrite:
            raise HeadwayError(f"{out} exists; give another --out, or --overwrite to replace it")

        from .. import checkpoint, factory, profile
        from ..convert import classes_in, from_upstream, read_upstream, sources

        model = factory.create_model(self.model, class_names=list(self.class_names) or None)
        source = self.source or _source_of(self.model)
        if not source:
            raise UsageError(f"say whose names the file uses: --source, one of {', '.join(sources())}")
        state = read_upstream(self.file)
        try:
            own = from_upstream(state, source, model)
        except CheckpointError as error:
            card = model.card
            names = [] if self.class_names else classes_in(self.file, error, lambda n: factory.shapes_of(card, n))
            if not names:
                raise
            model = factory.create_model(self.model, class_names=names)
            own = from_upstream(state, source, model)
            say(f"the file has {len(names)} classes: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}; "
                "--class-names gives them other names")  # fmt: skip
        model.load_state_dict(own)
        model.card.source = model.card.source or str(self.file.name)
        checkpoint.save(model, out)
        count = profile.count_parameters(model)
        if self.json:
            show_json({"out": out, "model": self.model, "source": source, "parameters": count})
        else:
            show(f"{out}: {self.model} from {source}, {count:,} parameters, {len(model.card.class_names)} classes")
            say(f"try it: headway predict {out} photo.jpg")
        return 0


def _source_of(name: str) -> str:
    """The converter of the model's tag, or nothing for a name without one."""
    from ..models.weights import find_row

    base, _, tag = name.partition(".")
    return find_row(base, tag).source if tag else ""
