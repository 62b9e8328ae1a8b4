"""DinoPretraining by self-distillation (DINO)."""

import dataclasses
import importlib
from dataclasses import asdict
from pathlib import Path

import torch
from torch.utils.data import default_collate

import training.pretraining
from core.checks import check_numbers
from core.progress import bar, say, warn
from core.system import distributed
from core.system.device import resolve_precision, use_explicit_attention
from core.tables import write_table
from data.datasets.loader import step_batches
from data.datasets.unlabelled import UnlabelledRadiographs, usable_radiographs
from data.reading.audit import quarantined
from data.views.intensity import DAX_LOWPASS, NeglogVariation
from data.views.multi_crop import MultiCrop
from data.views.preprocessing import Preprocessing
from evaluation.pages.panel import draw_views
from evaluation.pages.training_curves import draw_curves, read_metrics
from models.backbones.card import Provenance, dino_card, stated_licence
from models.backbones.dino import ARCHITECTURES, RESNETS, dino_backbone, load_initial, width_of
from models.networks.batch_norm import synchronised
from models.networks.dino import DINO, DINOHead, ProjectedBackbone, signs_of_collapse
from models.weights.export import save_backbone
from training.fit import to_device
from training.optim import LARS, adamw, parameter_groups, sgd
from training.pretraining import evenly
from training.schedules import cosine_by_step, stairs, warmup_cosine

METERS = {
    "teacher_entropy": "teacher entropy (nats)",
    "kl": "KL, teacher to student",
    "feature_sd": "spread of features (0: collapsed)",
}
TILE = 128  # pixels of a view in the picture of views


def pretrain(config) -> int:
    """Exit status: 0 finished, 143 stopped by a signal with everything saved."""
    if config.use_fp16 is not None:
        config = dataclasses.replace(config, precision="auto" if config.use_fp16 else "fp32")
    with distributed.job(config.device, config.strict_fp32) as device:
        torch.manual_seed(config.seed)
        return DinoPretraining(config, device, say).run()


class DinoPretraining(training.pretraining.Pretraining):
    """The paragraphs of `pretrain_mae.py`, for student and teacher."""

    collapsing = False  # when last looked
    free = training.pretraining.FREE | {"dataset", "job_ID", "use_wandb", "azure", "use_fp16"}

    # data

    def check_flags(self) -> None:
        """Refuse what cannot work before a million files are read."""
        c = self.config
        check_numbers(
            c,
            (
                "seed",
                "num_workers",
                "warmup_epochs",
                "save_freq",
                "save_minutes",
                "panel_freq",
                "lr",
                "min_lr",
                "weight_decay",
                "weight_decay_end",
                "clip_grad",
                "freeze_last_layer",
                "warmup_teacher_temp_epochs",
                "local_crops_number",
            ),
        )
        check_numbers(
            c,
            ("log_steps", "patch_size", "head_layers", "head_width", "local_size", "global_size"),
            low=1,
        )
        check_numbers(c, ("out_dim",), low=2)
        for name in ("global_crops_scale", "local_crops_scale"):
            if len(getattr(c, name)) != 2:
                raise ValueError(f"--{name} takes 2 numbers, not {len(getattr(c, name))}")
        check_numbers(c, ("teacher_temp", "warmup_teacher_temp"), above=True)
        check_numbers(c, ("momentum_teacher", "drop_path_rate", "neglog_floor"), high=1)
        for name in ("warmup_epochs", "warmup_teacher_temp_epochs"):
            if (value := getattr(c, name)) is not None and value > 0 and value >= c.epochs > 0:
                raise ValueError(
                    f"--{name} {value}: the run has {c.epochs} epochs; it would never end its warm-up"
                )
        if c.arch not in ARCHITECTURES:
            raise ValueError(f"--arch {c.arch!r}: choose {', '.join(ARCHITECTURES)}")
        sizes = [c.global_size, c.local_size][: 2 if c.local_crops_number else 1]
        if c.arch not in RESNETS and (
            wrong := [size for size in sizes if size < 1 or size % c.patch_size]
        ):
            raise ValueError(
                f"views of {wrong[0]} pixels: not a multiple of the patch size {c.patch_size}"
            )
        self.views = MultiCrop(
            c.augmentation,
            c.global_size,
            c.local_size,
            c.local_crops_number,
            tuple(c.global_crops_scale),
            tuple(c.local_crops_scale),
        )
        resolve_precision(c.precision, self.device)
        self.check_packages()
        random = c.neglog_version == "B" or (c.neglog_version == "auto" and c.augmentation == "v2")
        self.vary = NeglogVariation() if random and c.intensity == "neglog" else None
        options = {}
        if c.intensity == "neglog":  # radiographs are read with bone bright
            options = {"complement": not c.detector_counts} | (
                self.vary.typical if self.vary else {}
            )
            options |= {"lowpass_fraction": DAX_LOWPASS} if c.subtract_lowpass else {}
            options |= {"floor": c.neglog_floor} if c.neglog_floor else {}
        self.preprocessing = Preprocessing(
            c.global_size,
            c.global_size,
            c.intensity,
            options,
            interpolation="bicubic",
            mean=(0, 0, 0),
            std=(1, 1, 1),
        )
        self.network = c.arch + (
            f" with patches of {c.patch_size}" if c.arch not in RESNETS else ""
        )
        if c.azure:
            self.say("--azure is ignored: nothing here needs a cloud")

    def read_data(self):
        """Every file is read once before training starts."""
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

        if c.dataset or c.job_ID:
            self.say(
                ", ".join(f"{k} {v}" for k, v in (("data set", c.dataset), ("job", c.job_ID)) if v)
            )
        return distributed.from_main(find)

    def write_quarantine(self, bad) -> None:
        """Main process: which files cannot be used, and why."""
        write_table(
            Path(self.config.output_dir) / "quarantine.csv", list(bad.columns), quarantined(bad)
        )

    def dataset(self, paths: list):
        """Files as samples with their views."""
        c = self.config
        quarantine = Path(c.output_dir) / "quarantine.jsonl" if c.on_bad_image == "skip" else None
        return UnlabelledRadiographs(
            paths, self.preprocessing, self.views, c.seed, quarantine=quarantine, vary=self.vary
        )

    def batches(self, paths):

        c = self.config
        return step_batches(
            self.dataset(paths),
            self.plan,
            seed=c.seed,
            rank=distributed.rank(),
            num_workers=c.num_workers,
            pin_memory=c.pin_mem and self.device.type == "cuda",
        )

    # objective

    def make_objective(self):

        c = self.config

        def network(drop_path: float) -> ProjectedBackbone:
            backbone = dino_backbone(c.arch, c.patch_size, c.global_size, drop_path)
            head = DINOHead(
                width_of(backbone),
                c.out_dim,
                layers=c.head_layers,
                hidden=c.head_width,
                batch_norm=c.use_bn_in_head,
                fixed_gain=c.norm_last_layer,
            )
            return ProjectedBackbone(backbone, head)

        student = network(c.drop_path_rate)
        teacher = network(0.0)
        self.initial_licence = stated_licence(c.init_from) if c.init_from else None
        if c.init_from:
            report = load_initial(student.backbone, c.init_from, c.weights)
            self.say(f"starting from {c.init_from}: {report}; the head is new")
        dino = DINO(
            synchronised(student, self.device),
            synchronised(teacher, self.device),
            self.preprocessing.normalise,
            teacher_temperature=stairs(
                c.warmup_teacher_temp, c.teacher_temp, c.warmup_teacher_temp_epochs, c.epochs
            ),
            momentum=warmup_cosine(c.momentum_teacher, 1.0),
            freeze_last_layer=c.freeze_last_layer / c.epochs,
            clip_each_norm=c.clip_grad or None,
        )
        use_explicit_attention(dino, self.device)
        return dino

    # optimizer

    def make_optimizer(self):

        c = self.config
        plan = self.plan
        warmup = min(10.0, c.epochs / 10) if c.warmup_epochs is None else c.warmup_epochs
        peak = c.lr * plan.global_batch / 256
        lr = cosine_by_step(peak, c.min_lr, plan.total_steps, round(warmup * plan.steps_per_epoch))
        schedules = {"lr": lr, "weight_decay": warmup_cosine(c.weight_decay, c.weight_decay_end)}
        make = {"adamw": adamw, "sgd": sgd, "lars": LARS}[c.optimizer]
        return make(parameter_groups(self.objective)), schedules

    def clip_norm(self) -> None:
        """The objective clips each parameter by itself."""

    # during and after

    def prepare(self, paths) -> None:
        """Main process: a picture of the views of some radiographs, and the fixed views of those held out."""
        shown = self.dataset(evenly(paths, most=6))
        samples = [shown[0, i] for i in range(len(shown))]
        names = [name for name in ("global", "local") if name in samples[0]]
        columns = [f"{name} {i + 1}" for name in names for i in range(len(samples[0][name]))]
        rows = [[view[0].numpy() for name in names for view in sample[name]] for sample in samples]
        draw_views(rows, columns, Path(self.config.output_dir) / "panels" / "views.png", TILE)
        held_out = self.dataset(self.held_out)
        size = self.config.batch_size
        self.fixed = [
            default_collate(
                [held_out[0, i] for i in range(start, min(start + size, len(held_out)))]
            )
            for start in range(0, len(held_out), size)
        ]

    def after_epoch(self, epoch: float, step: int) -> None:
        """Every so many epochs and at the end: the loss of the held-out radiographs, in views that stay the same."""
        every = self.config.panel_freq
        if self.held_out and every and (epoch % every == 0 or step == self.plan.last_step):
            distributed.from_main(lambda: self.look(epoch, step))

    def look(self, epoch: float, step: int) -> None:
        """Main process."""
        self.objective.eval()
        with torch.no_grad():
            losses = [
                self.objective(to_device(part, self.device), step / self.plan.total_steps)[
                    "loss"
                ].item()
                * len(part["index"])
                for part in self.fixed
            ]
        record = {
            "step": step,
            "epoch": round(epoch, 4),
            "val_loss": sum(losses) / len(self.held_out),
        }
        self.folder.log(record)
        self.logged(record)

    def watch(self, record) -> None:
        """Main process: warn of a collapse when it begins; Weights & Biases.

        A network of random weights has no preferences either, so that the first tenth of the training is let pass.
        """
        if METERS.keys() <= record.keys() and record["step"] > self.plan.total_steps / 10:
            signs = signs_of_collapse(record, self.config.out_dim)
            for told in signs if not self.collapsing else ():
                warn(f"step {record['step']}: this looks like a collapse: {told}")
            self.collapsing = bool(signs)
        if self.config.use_wandb:
            wandb = importlib.import_module("wandb")
            if wandb.run is None:
                wandb.init(project="dino", name=self.config.job_ID, config=asdict(self.config))
            wandb.log(record, step=record["step"])

    def export(self, step: int) -> None:
        """Main process, at every save: OUTPUT_DIR/model and curves.png."""
        c = self.config
        out = Path(self.config.output_dir)
        backbone = self.objective.teacher.backbone
        log = out / "metrics.jsonl"
        records = read_metrics(log) if log.exists() else []
        names = {"loss": "training loss", "val_loss": "held-out loss"} | METERS
        figures = {
            label: record[key]
            for record in records
            for key, label in names.items()
            if key in record
        }
        run = Provenance(
            recipe=self.recipe(),
            radiographs=self.plan.samples,
            step=step,
            last_step=self.plan.last_step,
            licence=c.licence,
            initial_licence=self.initial_licence,
            figures=figures,
        )
        card = dino_card(self.network, width_of(backbone), self.told_preprocessing(), run)
        save_backbone(backbone, c.arch, out / "model", self.preprocessing.to_dict(), card)
        if records:
            draw_curves(log, out / "curves.png", title=c.job_ID or self.network, others=METERS)

    def recipe(self) -> dict:
        """The flags that decide what is learned, for the model card."""
        aside = self.free - {"batch_size", "accum_iter", "dataset"} | {"resume", "strict_fp32"}
        return {key: value for key, value in asdict(self.config).items() if key not in aside}

    def told_preprocessing(self) -> str:
        """A sentence for the model card."""
        p = self.preprocessing
        options = ", ".join(f"{name} {value}" for name, value in p.intensity_options.items())
        told = f"Grey values went through the intensity mapping {p.intensity!r} ({options or 'as it stands'})."
        if self.vary:
            low, high = self.vary.contrast
            told += (
                f" While training, the logarithm was taken with probability {self.vary.probability:g}, with a "
                f"contrast factor from {low:g} to {high:g}."
            )
        return told
