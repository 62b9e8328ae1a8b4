"""The model card (README.md of a checkpoint folder): what it is, what it learned from, what it may be used for."""

import json
from pathlib import Path
from typing import Any

from models.mae import MAEConfig

_RECIPE = ("mask_ratio", "norm_pix_loss", "intensity", "crop_scale", "own_aspect", "flip", "batch_size", "accum_iter",
           "epochs", "warmup_epochs", "blr", "lr", "min_lr", "weight_decay", "precision", "seed")  # fmt: skip


def stated_licence(checkpoint: str | Path) -> str | None:
    """The licence that the card of a checkpoint folder, or of the folder that a file belongs to, states; or None.

    That is `license_name: ...` (or `license`, `licence`) between the two lines of dashes that it begins with, as on the
    Hub. The README.md beside a file counts only where there is a config.json too: in any other folder it tells of
    something else. Cards of strangers: the first 8 KB are read, and only plain text counts.
    """
    import yaml

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
        facts = yaml.safe_load(parts[1])
    except (yaml.YAMLError, RecursionError, ValueError):  # ValueError: a date that there never was
        return None  # somebody else's page; nothing is concluded from it
    facts = facts if isinstance(facts, dict) else {}
    found = [facts[key] for key in ("license_name", "license", "licence") if isinstance(facts.get(key), str)]
    found = [text for text in (" ".join(text.split()) for text in found) if text]
    return found[0][:200] if found else None


def converted_card(
    source: str, family: str, matched: str, target: str, preprocessing_known: bool, licence: str | None = None
) -> str:
    """The card of a converted checkpoint. `source` is a name without folders, `licence` what its own card states."""
    known = "The preprocessing written here is the one they were trained with."
    unknown = "The original does not say how pictures were prepared; statistics written here are ImageNet's, assumed."
    terms = f"Its card states the licence: {licence}." if licence else "It states no licence: ask whoever published it."
    return f"""---
{_front_matter(licence)}tags: [radiography]
---

# {source}, converted for {target}

Read as a {family} checkpoint, {matched} tensors; the weights are unchanged. Their licence, their training data and what
they may be used for are those of the original: see its own model card. {terms}
{known if preprocessing_known else unknown}

For research. Not a medical device; not evaluated for any clinical decision.
"""


def finetuned_card(
    title: str, task: str, backbone: str, facts: dict[str, Any], initial_licence: str | None,
    reader: str = "models.finetuned.load_finetuned",
) -> str:  # fmt: skip
    """The card of a fine-tuned network. `task`: what it tells and of what data; `backbone`: the name that it was asked
    for by, which is shown without folders; `facts`: figures and settings by name; `reader`: what reads the folder."""
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    random = backbone.startswith("none:")
    start = "random weights" if random else f"the weights called {Path(backbone).name}"
    terms = "the data" if random else "the data and of the initial weights"
    licence = "" if random else f"Initial weights: {initial_licence or 'not stated; ask whoever published them'}\n\n"
    return f"""---
{_front_matter(initial_licence)}tags: [radiography]
---

# {title}

{task} Started from {start}.

| | |
|---|---|
{rows}

`{reader}` reads this folder; `preprocessor_config.json` holds the preprocessing.

## Limits

For research. Not a medical device; not evaluated for any clinical decision.

## Licence

{licence}Whoever shares these weights must respect the terms of {terms}.
"""


def mae_card(
    config: MAEConfig,
    *,
    recipe: dict[str, Any],
    radiographs: int,
    step: int,
    last_step: int,
    licence: str | None = None,
    initial_licence: str | None = None,
    figures: dict[str, float] | None = None,
) -> str:
    """Markdown. No file names, no paths and no radiographs: a card may travel further than they do.

    `licence`: of the data; `initial_licence`: what the card of the initial weights states; both go on to whoever
    trains from these weights. `figures`: losses by name.
    """
    h, w = config.input_size
    front = _front_matter("; ".join(dict.fromkeys(filter(None, (initial_licence, licence)))))
    licence = licence or "not stated"
    start, terms = "random weights", "the data"
    if recipe.get("init_from"):
        start, terms = "another checkpoint, whose licence applies here too", "the data and of the initial weights"
        stated = initial_licence or "not stated by their card; ask whoever published them"
        licence = f"{licence}\n\nInitial weights: {stated}"
    rows = "\n".join(f"| {key} | {recipe[key]} |" for key in _RECIPE if recipe.get(key) is not None)
    return f"""---
{front}library_name: transformers
pipeline_tag: image-feature-extraction
tags: [radiography, masked-autoencoder]
---

# Masked autoencoder for radiographs, {recipe.get("model", "")}

Pretrained without labels on {radiographs:,} radiographs; step {step:,} of {last_step:,}.
Started from {start}.

| architecture | |
|---|---|
| input | {h} x {w} pixels, patches of {config.patch_size} |
| encoder | {config.depth} blocks, width {config.dim}, {config.heads} heads |
| decoder | {config.decoder_depth} blocks, width {config.decoder_dim}, {config.decoder_heads} heads |
| LayerNorm epsilon | {config.layer_norm_eps} |

| recipe | |
|---|---|
{rows}

{_figures(figures or {})}## Use

`preprocessor_config.json` holds the preprocessing it was trained with. In transformers:

```python
from transformers import AutoImageProcessor, ViTMAEForPreTraining
model = ViTMAEForPreTraining.from_pretrained("THIS_FOLDER")
processor = AutoImageProcessor.from_pretrained("THIS_FOLDER")  # expects 8-bit RGB pictures, min-max scaled
```

## Limits

For research. Not a medical device; not evaluated for any clinical decision. Error maps show where reconstruction
fails, which is often a bone edge and not a lesion.

## Licence

Data: {licence}

Whoever shares these weights must respect the terms of {terms}.
"""


def dino_card(
    architecture: str,
    width: int,
    *,
    recipe: dict[str, Any],
    preprocessing: str,
    radiographs: int,
    step: int,
    last_step: int,
    licence: str | None = None,
    initial_licence: str | None = None,
    figures: dict[str, float] | None = None,
) -> str:
    """Markdown of a backbone that DINO trained; what is said of `mae_card` holds.

    `recipe`: the flags that decided it, `init_from` among them if it is set. `preprocessing`: a sentence.
    """
    front = _front_matter("; ".join(dict.fromkeys(filter(None, (initial_licence, licence)))))
    start = "random weights"
    if recipe.get("init_from"):
        start = "another checkpoint, whose licence applies here too"
        start += f" ({initial_licence})" if initial_licence else ""
    rows = "\n".join(
        f"| {key} | {value} |" for key, value in recipe.items() if value is not None and key != "init_from"
    )
    terms = "the data and of the initial weights" if recipe.get("init_from") else "the data"
    measured = "\n".join(f"| {name} | {value:.4g} |" for name, value in (figures or {}).items())
    measured = f"| as last logged | |\n|---|---|\n{measured}\n\n" if measured else ""
    return f"""---
{front}library_name: timm
pipeline_tag: image-feature-extraction
tags: [radiography, dino, dax]
---

# Backbone for radiographs, {architecture}, DINO

The teacher of a self-distillation without labels (DINO, in the recipe of DAX) on {radiographs:,} radiographs;
step {step:,} of {last_step:,}. Started from {start}. It gives {width} features.

{preprocessing}
`preprocessor_config.json` holds this preprocessing; pictures that are prepared in another way give other features.

| recipe | |
|---|---|
{rows}

{measured}## Use

```python
import timm
model = timm.create_model("local-dir:THIS_FOLDER", pretrained=True)  # expects what preprocessor_config.json says
```

## Limits

For research. Not a medical device; not evaluated for any clinical decision.

## Licence

Data: {licence or "not stated"}

Whoever shares these weights must respect the terms of {terms}.
"""


def _front_matter(licence: str | None) -> str:
    return f"license: other\nlicense_name: {json.dumps(licence)}\n" if licence else ""


def _figures(figures: dict[str, float]) -> str:
    """A table of losses, nothing if there are none."""
    if not figures:
        return ""
    rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in figures.items())
    return f"""| loss: mean squared error of hidden patches, as trained | |
|---|---|
{rows}

"""
