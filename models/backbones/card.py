"""The model card (README.md of a checkpoint folder): what it is, what it learned from, what it may be used for."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.text import escaped, markdown
from core.yaml_text import parse_yaml
from models.backbones.names import find
from models.networks.mae import MAEConfig

_RECIPE = (
    "mask_ratio",
    "norm_pix_loss",
    "intensity",
    "crop_scale",
    "own_aspect",
    "flip",
    "batch_size",
    "accum_iter",
    "epochs",
    "warmup_epochs",
    "blr",
    "lr",
    "min_lr",
    "weight_decay",
    "precision",
    "seed",
)


def stated_licence(checkpoint: str | Path) -> str | None:
    """The licence that the card of a checkpoint folder, or of the folder that a file belongs to, states; or None.

    That is `license_name: ...` (or `license`, `licence`) between the two lines of dashes that it begins with, as on the
    Hub. The README.md beside a file counts only where there is a config.json too: in any other folder it tells of
    something else. Cards of strangers: the first 8 KB are read, only plain text counts, and hidden characters are
    escaped.
    """
    path = Path(checkpoint)
    folder = path if path.is_dir() else path.parent
    card = folder / "README.md"
    if not card.is_file() or not (path.is_dir() or (folder / "config.json").is_file()):
        return None
    with card.open(encoding="utf-8", errors="replace") as file:
        parts = file.read(8192).split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return None
    try:
        facts = parse_yaml(parts[1])
    except ValueError:
        return None  # somebody else's page; nothing is concluded from it
    facts = facts if isinstance(facts, dict) else {}
    found = [
        facts[key]
        for key in ("license_name", "license", "licence")
        if isinstance(facts.get(key), str)
    ]
    found = [text for text in (" ".join(text.split()) for text in found) if text]
    return escaped(found[0][:200]) if found else None


def backbone_licence(name: str) -> str | None:
    """The licence of the weights that a backbone's name means: what their card states, else what the list of aliases
    says; None for random weights and where nobody says."""
    source = find(name)
    if source.weights is None or source.untrained:
        return None
    return stated_licence(source.weights) or (source.alias.licence if source.alias else None)


def converted_card(
    source: str,
    family: str,
    matched: str,
    target: str,
    preprocessing_known: bool,
    licence: str | None = None,
) -> str:
    """The card of a converted checkpoint. `source` is a name without folders, `licence` what its own card states."""
    known = "The preprocessing written here is the one they were trained with."
    unknown = "The original does not say how pictures were prepared; statistics written here are ImageNet's, assumed."
    terms = "It states no licence: ask whoever published it."
    if licence:
        terms = f"Its card states the licence: {markdown(licence)}."
    return f"""---
{_front_matter(licence)}tags: [radiography]
---

# {markdown(source)}, converted for {target}

Read as a {family} checkpoint, {matched} tensors; the weights are unchanged. Their licence, their training data and what
they may be used for are those of the original: see its own model card. {terms}
{known if preprocessing_known else unknown}

For research. Not a medical device; not evaluated for any clinical decision.
"""


def finetuned_card(
    title: str,
    task: str,
    backbone: str,
    facts: dict[str, Any],
    initial_licence: str | None,
    reader: str = "models.backbones.finetuned.load_finetuned",
) -> str:
    """The card of a fine-tuned network. `task`: what it tells and of what data; `backbone`: the name that it was asked
    for by, which is shown without folders; `facts`: figures and settings by name; `reader`: what reads the folder."""
    rows = _rows(facts)
    random = backbone.startswith("none:")
    start = "random weights" if random else f"the weights called {markdown(Path(backbone).name)}"
    terms = "the data" if random else "the data and of the initial weights"
    stated = markdown(initial_licence or "not stated; ask whoever published them")
    licence = "" if random else f"Initial weights: {stated}\n\n"
    return f"""---
{_front_matter(initial_licence)}tags: [radiography]
---

# {markdown(title)}

{markdown(task)} Started from {start}.

| | |
|---|---|
{rows}

`{reader}` reads this folder; `preprocessor_config.json` holds the preprocessing.

## Limits

For research. Not a medical device; not evaluated for any clinical decision.

## Licence

{licence}Whoever shares these weights must respect the terms of {terms}.
"""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What the card of a pretrained model tells of its run. No file names, no paths and no radiographs: a card may
    travel further than they do.

    `recipe`: the flags that decided it, in the order in which they are shown; `init_from` among them where weights were
    given. `licence`: of the data; `initial_licence`: what the card of the initial weights states; both go on to
    whoever trains from these weights. `figures`: losses by name.
    """

    recipe: dict[str, Any]
    radiographs: int
    step: int
    last_step: int
    licence: str | None = None
    initial_licence: str | None = None
    figures: dict[str, float] = field(default_factory=dict)


def mae_card(config: MAEConfig, run: Provenance) -> str:
    """Markdown of a masked autoencoder."""
    h, w = config.input_size
    return _pretrained_card(
        run,
        shown=[key for key in _RECIPE if key in run.recipe],
        front="library_name: transformers\npipeline_tag: image-feature-extraction\n"
        "tags: [radiography, masked-autoencoder]",
        title=f"Masked autoencoder for radiographs, {run.recipe.get('model', '')}",
        lead="Pretrained without labels",
        about=f"""| architecture | |
|---|---|
| input | {h} x {w} pixels, patches of {config.patch_size} |
| encoder | {config.depth} blocks, width {config.dim}, {config.heads} heads |
| decoder | {config.decoder_depth} blocks, width {config.decoder_dim}, {config.decoder_heads} heads |
| LayerNorm epsilon | {config.layer_norm_eps} |""",
        measured="loss: mean squared error of hidden patches, as trained",
        use="""`preprocessor_config.json` holds the preprocessing it was trained with. In transformers:

```python
from transformers import AutoImageProcessor, ViTMAEForPreTraining
model = ViTMAEForPreTraining.from_pretrained("THIS_FOLDER")
processor = AutoImageProcessor.from_pretrained("THIS_FOLDER")  # expects 8-bit RGB pictures, min-max scaled
```""",
        limits=" Error maps show where reconstruction\nfails, which is often a bone edge and not a lesion.",
    )


def dino_card(architecture: str, width: int, preprocessing: str, run: Provenance) -> str:
    """Markdown of a backbone that DINO trained. `width`: of its features; `preprocessing`: a sentence."""
    return _pretrained_card(
        run,
        shown=[key for key in run.recipe if key != "init_from"],
        front="library_name: timm\npipeline_tag: image-feature-extraction\ntags: [radiography, dino, dax]",
        title=f"Backbone for radiographs, {architecture}, DINO",
        lead="The teacher of a self-distillation without labels (DINO, in the recipe of DAX)",
        about=f"""It gives {width} features. {preprocessing}
`preprocessor_config.json` holds this preprocessing; pictures that are prepared in another way give other features.""",
        measured="as last logged",
        use="""```python
import timm
model = timm.create_model("local-dir:THIS_FOLDER", pretrained=True)  # expects what preprocessor_config.json says
```""",
    )


def _pretrained_card(
    run: Provenance,
    *,
    shown: list[str],
    front: str,
    title: str,
    lead: str,
    about: str,
    measured: str,
    use: str,
    limits: str = "",
) -> str:
    """The frame of the cards of pretrained models. `shown`: keys of the recipe; `measured`: head of the losses."""
    begun = bool(run.recipe.get("init_from"))
    recipe = _rows({key: run.recipe[key] for key in shown if run.recipe[key] is not None})
    figures = _rows({name: f"{value:.4g}" for name, value in run.figures.items()})
    parts = [
        f"---\n{_front_matter('; '.join(dict.fromkeys(filter(None, (run.initial_licence, run.licence)))))}{front}\n---",
        f"# {markdown(title)}",
        f"{lead} on {run.radiographs:,} radiographs; step {run.step:,} of {run.last_step:,}.\n"
        f"Started from {'another checkpoint, whose licence applies here too' if begun else 'random weights'}.",
        about,
        f"| recipe | |\n|---|---|\n{recipe}",
        *([f"| {measured} | |\n|---|---|\n{figures}"] if figures else []),
        f"## Use\n\n{use}",
        f"## Limits\n\nFor research. Not a medical device; not evaluated for any clinical decision.{limits}",
        f"## Licence\n\nData: {markdown(run.licence or 'not stated')}",
        *(
            [
                "Initial weights: "
                + markdown(
                    run.initial_licence or "not stated by their card; ask whoever published them"
                )
            ]
            * begun
        ),
        f"Whoever shares these weights must respect the terms of the data{' and of the initial weights' * begun}.",
    ]
    return "\n\n".join(parts) + "\n"


def _rows(facts: dict[str, Any]) -> str:
    """Lines of a Markdown table."""
    return "\n".join(f"| {markdown(key)} | {markdown(value)} |" for key, value in facts.items())


def _front_matter(licence: str | None) -> str:
    """The licence as YAML, in which no HTML tag can stand."""
    if not licence:
        return ""
    name = json.dumps(escaped(licence)).replace("<", "\\u003c")
    return f"license: other\nlicense_name: {name}\n"
