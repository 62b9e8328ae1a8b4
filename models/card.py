"""The model card (README.md of a checkpoint folder): what it is, what it learned from, what it may be used for."""

from typing import Any

from models.mae import MAEConfig

_RECIPE = ("mask_ratio", "norm_pix_loss", "intensity", "crop_scale", "own_aspect", "flip", "batch_size", "accum_iter",
           "epochs", "warmup_epochs", "blr", "lr", "min_lr", "weight_decay", "precision", "seed")  # fmt: skip


def converted_card(source: str, family: str, matched: str, target: str, preprocessing_known: bool) -> str:
    """The card of a converted checkpoint. `source` is a name without folders."""
    known = "The preprocessing written here is the one they were trained with."
    unknown = "The original does not say how pictures were prepared; statistics written here are ImageNet's, assumed."
    return f"""---
tags: [radiography]
---

# {source}, converted for {target}

Read as a {family} checkpoint, {matched} tensors; the weights are unchanged. Their licence, their training data and what
they may be used for are those of the original: see its own model card.
{known if preprocessing_known else unknown}

For research. Not a medical device; not evaluated for any clinical decision.
"""


def mae_card(
    config: MAEConfig, *, recipe: dict[str, Any], radiographs: int, step: int, last_step: int, licence: str
) -> str:
    """Markdown. No file names and no paths: a card may travel further than the radiographs."""
    h, w = config.input_size
    start, terms = "random weights", "the data"
    if recipe.get("init_from"):
        start, terms = "another checkpoint, whose licence applies here too", "the data and of the initial weights"
    rows = "\n".join(f"| {key} | {recipe[key]} |" for key in _RECIPE if recipe.get(key) is not None)
    return f"""---
library_name: transformers
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

## Use

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

Data: {licence}. Whoever shares these weights must respect the terms of {terms}.
"""
