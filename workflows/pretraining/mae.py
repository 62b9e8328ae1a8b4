"""Pretraining of a masked autoencoder."""

import functools
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

import training.pretraining
from core.checks import check_numbers
from core.progress import bar, say
from core.system import distributed
from core.system.device import resolve_precision, use_explicit_attention
from core.tables import write_table
from core.text import percent
from data.datasets.loader import step_batches
from data.datasets.unlabelled import UnlabelledRadiographs, usable_radiographs
from data.reading.audit import quarantined
from data.reading.refusal import UnreadableRadiograph
from data.views.augmentation import CropFlip
from data.views.preprocessing import Preprocessing
from evaluation.pages import panel
from evaluation.pages.panel import FixedSet, outlook
from evaluation.pages.training_curves import draw_curves, read_metrics
from models.backbones.card import Provenance, mae_card, stated_licence
from models.networks.mae import MaskedAutoencoder, named_config
from models.weights.checkpoint import load_mae, save_mae
from training.optim import adamw, parameter_groups
from training.pretraining import evenly
from training.sampling import sample_generator
from training.schedules import constant, warmup_cosine


def pretrain(config) -> int:
    """Exit status: 0 finished, 143 stopped by a signal with everything saved."""
    with distributed.job(config.device, config.strict_fp32) as device:
        torch.manual_seed(config.seed)
        return MaePretraining(config, device, say).run()


class MaePretraining(training.pretraining.Pretraining):
    """The seven paragraphs of every pretraining script: data, objective, optimizer, resume, fit, export."""

    told = ""  # of the last panel

    # data

    def check_flags(self) -> None:
        """Refuse what cannot work before a million files are read."""
        c = self.config
        for name, count in (
            ("input_size", (1, 2)),
            ("mean", (3,)),
            ("std", (3,)),
            ("crop_scale", (2,)),
        ):
            if len(getattr(c, name)) not in count:
                raise ValueError(
                    f"--{name} takes {' or '.join(map(str, count))} numbers, not {len(getattr(c, name))}"
                )
        check_numbers(
            c,
            (
                "seed",
                "num_workers",
                "warmup_epochs",
                "save_freq",
                "save_minutes",
                "panel_freq",
                "blr",
                "lr",
                "min_lr",
                "weight_decay",
                "clip_grad",
            ),
        )
        check_numbers(c, ("log_steps",), low=1)
        if c.warmup_epochs is not None and c.warmup_epochs >= c.epochs > 0:
            raise ValueError(
                f"--warmup_epochs {c.warmup_epochs}: the run has {c.epochs} epochs; its learning rate would never peak"
            )
        size = tuple(c.input_size) if len(c.input_size) == 2 else (c.input_size[0],) * 2
        self.crop = CropFlip(*size, tuple(c.crop_scale), own_aspect=c.own_aspect, flip=c.flip)
        # radiographs are read with bone bright, neg-log expects detector counts (bone dark)
        options = {"complement": True} if c.intensity == "neglog" else {}
        self.preprocessing = Preprocessing(
            *size,
            intensity=c.intensity,
            intensity_options=options,
            mean=tuple(c.mean),
            std=tuple(c.std),
        )
        self.network = c.model
        self.architecture = named_config(
            c.model, input_size=size, mask_ratio=c.mask_ratio, norm_pix_loss=c.norm_pix_loss
        )
        resolve_precision(c.precision, self.device)
        self.check_packages()

    def read_data(self):
        """(training files, held-out files, quarantine table): every file is read once before training starts."""
        c = self.config

        def find():
            return usable_radiographs(
                c.data_path,
                c.val_path,
                Path(c.output_dir),
                workers=c.num_workers,
                stop=c.on_bad_image == "stop",
                earlier=c.audit,
                note=self.write_quarantine,
                tell=self.say,
                progress=bar("reading files"),
            )

        return distributed.from_main(find)

    def write_quarantine(self, bad) -> None:
        """Main process: which files cannot be used, and why."""
        write_table(
            Path(self.config.output_dir) / "quarantine.csv", list(bad.columns), quarantined(bad)
        )

    def batches(self, paths):

        c = self.config
        p = self.preprocessing
        quarantine = Path(c.output_dir) / "quarantine.jsonl" if c.on_bad_image == "skip" else None
        dataset = UnlabelledRadiographs(
            paths, p, self.crop, c.seed, self.objective.config.patches, quarantine
        )
        return step_batches(
            dataset,
            self.plan,
            seed=c.seed,
            rank=distributed.rank(),
            num_workers=c.num_workers,
            pin_memory=c.pin_mem and self.device.type == "cuda",
        )

    # objective

    def make_objective(self):

        c = self.config
        mae = MaskedAutoencoder(self.architecture, self.preprocessing.normalise)
        self.initial_licence = stated_licence(c.init_from) if c.init_from else None
        if c.init_from:
            source = load_mae(
                c.init_from, input_size=self.architecture.input_size, weights=c.weights
            )
            own = mae.state_dict()
            other = source.model.state_dict()
            wrong = [k for k in own if k not in other or own[k].shape != other[k].shape]
            if wrong:
                raise ValueError(
                    f"--init_from {c.init_from}: does not fit --model {c.model} ({len(wrong)} tensors "
                    f"differ, e.g. {wrong[0]})"
                )
            mae.load_state_dict(other)
            say(f"starting from {c.init_from}: {source.report}")
        use_explicit_attention(mae, self.device)
        return mae

    # optimizer

    def make_optimizer(self):

        c = self.config
        peak = c.lr if c.lr is not None else c.blr * self.plan.global_batch / 256
        warmup = 1 / 20 if c.warmup_epochs is None else c.warmup_epochs / c.epochs
        schedules = {
            "lr": warmup_cosine(peak, c.min_lr, warmup),
            "weight_decay": constant(c.weight_decay),
        }
        return adamw(parameter_groups(self.objective), betas=(0.9, 0.95)), schedules

    # during and after

    def export(self, step: int) -> None:
        """Main process, at every save: OUTPUT_DIR/model and curves.png."""
        c = self.config
        out = Path(self.config.output_dir)
        references = self.references if self.held_out and c.panel_freq else {}
        figures = self.latest_losses() | {
            f"{name}, held out": loss for name, loss in references.items()
        }
        run = Provenance(
            recipe=asdict(c),
            radiographs=self.plan.samples,
            step=step,
            last_step=self.plan.last_step,
            licence=c.licence,
            initial_licence=self.initial_licence,
            figures=figures,
        )
        card = mae_card(self.objective.config, run)
        save_mae(self.objective, out / "model", self.preprocessing.to_dict(), card)
        if (out / "metrics.jsonl").exists():
            draw_curves(
                out / "metrics.jsonl", out / "curves.png", title=c.model, references=references
            )

    def latest_losses(self) -> dict[str, float]:
        """Main process: training and held-out loss as last logged."""
        path = Path(self.config.output_dir) / "metrics.jsonl"
        names = {"loss": "training", "val_loss": "held out"}
        records = read_metrics(path) if path.exists() else []
        return {
            label: record[key]
            for record in records
            for key, label in names.items()
            if key in record
        }

    def after_epoch(self, epoch: float, step: int) -> None:
        """Every so many epochs and at the end: held-out loss and the panel of reconstructions."""
        every = self.config.panel_freq
        if every and (epoch % every == 0 or step == self.plan.last_step):
            distributed.from_main(lambda: self.look(epoch, step))

    def look(self, epoch: float, step: int) -> None:
        """Main process."""
        c = self.config
        name = f"epoch_{int(epoch):05d}" + (f"_step_{step}" if epoch % 1 else "")
        loss = self.fixed_set.loss(self.objective, self.device)
        caption = f"epoch {epoch:.5g}, {percent(c.mask_ratio)} of the patches hidden, "
        if self.held_out:
            record = {"step": step, "epoch": round(epoch, 4), "val_loss": loss}
            self.folder.log(record)
            if self.tensorboard:
                self.tensorboard(record)
            caption += f"held-out loss {loss:.4f}"
            caption += "".join(
                f"; {method} {value:.4f}" for method, value in self.references.items()
            )
        else:
            caption += f"training loss {loss:.4f}; these radiographs are trained on (--val_path holds some out)"
        self.fixed_set.draw(
            self.objective, self.device, Path(c.output_dir) / "panels" / f"{name}.png", caption
        )
        references = self.references if self.held_out else {}
        told = "" if c.norm_pix_loss else outlook(step, self.plan.last_step, loss, references)
        if told and told != self.told:  # what stays the same is said once
            kind = "held-out" if self.held_out else "training"
            best = min(references, key=references.get, default=None)
            level = f"; {best} {references[best]:.3g}" if references else ""
            self.say(f"{step:,} step{'s' * (step != 1)}: {told} ({kind} loss {loss:.3g}{level})")
        self.told = told

    def prepare(self, paths) -> None:
        """Main process: the held-out radiographs, without --val_path six of the training set; fixed masks."""

        def read(chosen: list) -> torch.Tensor:
            images = []
            for path in chosen:
                try:
                    images.append(self.preprocessing.fit(self.preprocessing.read(path)))
                except (
                    UnreadableRadiograph
                ) as error:  # readable a moment ago; the loader notes and replaces it
                    say(f"left out of the panel: {error}")
            if not images:
                raise ValueError("none of the radiographs of the panel can be read any more")
            return torch.stack(images)

        shown = evenly(
            self.held_out or paths, most=FixedSet.shown
        )  # the panel draws the first: some of all kinds
        images = read(shown + [p for p in self.held_out if p not in shown])
        masks = [
            sample_generator(0, 0, i).random(self.objective.config.patches, dtype=np.float32)
            for i in range(4)
        ]
        noise = torch.from_numpy(
            np.stack([masks[i % 4] for i in range(len(images))])
        )  # four masks, shared
        normalise = self.preprocessing.normalise
        grey = self.preprocessing.denormalise
        mean_image = (
            grey(normalise(read(evenly(paths, most=64)))).mean((0, 1)).numpy()
            if self.held_out
            else None
        )
        self.fixed_set = FixedSet(images, noise, normalise, grey, mean_image)

    def advice(self) -> str:
        """A run of few steps ends with a mean picture, which looks like a defect to those who do not know it."""
        plan = self.plan
        if plan.last_step >= panel.EARLY_STEPS or self.config.norm_pix_loss:
            return ""
        more = f"--epochs {math.ceil(panel.EARLY_STEPS / plan.steps_per_epoch)} makes at least {panel.EARLY_STEPS:,}"
        if plan.last_step < plan.total_steps:
            more = "--max_steps ends it early"
        steps = "1 step is" if plan.last_step == 1 else f"{plan.last_step:,} steps are"
        return f"{steps} few: reconstructions will be a blur, perhaps a mean picture; {more}"

    @functools.cached_property
    def references(self) -> dict:
        """Held-out losses of what needs no learning; measured once, on the main process."""
        return self.fixed_set.reference_losses(self.objective)
