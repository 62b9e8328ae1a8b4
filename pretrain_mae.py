"""Pretrain a masked autoencoder on unlabelled radiographs.

    python pretrain_mae.py --data_path /data/radiographs --output_dir runs/mae                          # one GPU or CPU
    python pretrain_mae.py --config configs/skelex_mae_vit_large.yaml --data_path A B --output_dir runs/skelex
    torchrun --nproc_per_node 8 pretrain_mae.py --config ... --data_path ... --output_dir ...           # one node
    torchrun --nnodes 2 --nproc_per_node 8 --rdzv_backend c10d --rdzv_endpoint HOST:29500 pretrain_mae.py ...

The same line after an interruption continues exactly where it was. OUTPUT_DIR/model is the exported checkpoint folder,
fresh at every save: `python zero_shot_heatmap.py --model-path OUTPUT_DIR/model ...` takes it.
Flags are spelt as in https://github.com/facebookresearch/mae (main_pretrain.py).
"""

import functools
from dataclasses import asdict, dataclass
from pathlib import Path

import training.pretraining
from core.flags import audit_flag, flag, run, weights_flag
from core.progress import bar, say
from core.text import percent
from training.pretraining import evenly


@dataclass
class Config:
    """Pretrain a masked autoencoder (He et al., 2022) on unlabelled radiographs."""

    data_path: list[str] = flag(help="folders (searched recursively), files, or .txt/.csv lists of radiographs")
    output_dir: str = flag("runs/mae", "run folder; its checkpoints are continued by the same command")
    val_path: list[str] = flag([], "radiographs left out of training: their loss is logged and the panel drawn of them")
    model: str = flag("mae_vit_large_patch16", "mae_vit_{mini,tiny,small,base,large,huge}_patchP[_decWIDTHdBLOCKSb]")
    input_size: list[int] = flag([224], "side of the square input, or height and width, in pixels")
    mask_ratio: float = flag(0.75, "fraction of patches hidden from the encoder")
    norm_pix_loss: bool = flag(False, "predict pixels normalised per patch (off for radiographs: black background)")
    intensity: str = flag("minmax", "grey values to [0, 1]", choices=("minmax", "percentile", "neglog"))
    mean: list[float] = flag([0.485, 0.456, 0.406], "channel means of the normalised input, in [0, 1] units")
    std: list[float] = flag([0.229, 0.224, 0.225], "channel standard deviations of the normalised input")
    crop_scale: list[float] = flag([0.2, 1.0], "range of the random crop, fraction of the area; 1 1: all of it")
    own_aspect: bool = flag(False, "crops of the radiograph's own aspect, within 3:4 to 4:3 of it")
    flip: float = flag(0.5, "probability of a horizontal flip")
    batch_size: int = flag(64, "radiographs per process and backward pass")
    accum_iter: int = flag(1, "backward passes per optimizer step")
    epochs: float = flag(800.0, "passes over the data")
    max_steps: int | None = flag(None, "end after this many optimizer steps (the schedule still spans the epochs)")
    warmup_epochs: float | None = flag(None, "linear warm-up of the learning rate; default: epochs / 20")
    blr: float = flag(1.5e-4, "peak learning rate per 256 radiographs of global batch")
    lr: float | None = flag(None, "absolute peak learning rate; overrides --blr")
    min_lr: float = flag(0.0, "learning rate at the end")
    weight_decay: float = flag(0.05, "decoupled weight decay, on matrices only")
    clip_grad: float | None = flag(None, "largest gradient norm")
    init_from: str | None = flag(None, "checkpoint (folder or file) whose weights to start from")
    resume: str = flag("auto", "auto: continue the run in output_dir; none: refuse one; or a run folder / checkpoint")
    seed: int = flag(0, "decides initial weights, order, crops and hidden patches")
    num_workers: int = flag(4, "loader processes per training process")
    pin_mem: bool = flag(True, "page-locked memory for transfers to a GPU")
    device: str = flag("auto", "auto, cpu, cuda or cuda:N")
    precision: str = flag("auto", "auto, fp32, tf32, bf16 or fp16")
    strict_fp32: bool = flag(False, "leave the CPU's default float32 library in place")
    compile: bool = flag(False, "torch.compile the network")
    on_bad_image: str = flag("skip", "unreadable radiographs: quarantine and go on, or stop", choices=("skip", "stop"))
    audit: Path | None = audit_flag()
    save_freq: float = flag(1.0, "checkpoint every so many epochs (0: only by time and at the end)")
    save_minutes: float = flag(15.0, "and after so many minutes")
    panel_freq: int = flag(10, "held-out loss and a panel of reconstructions every so many epochs (0: never)")
    log_steps: int = flag(20, "optimizer steps per line of metrics.jsonl")
    tensorboard: bool = flag(False, "also log to TensorBoard (needs the tensorboard package)")
    licence: str | None = flag(None, "licence of the data, for the model card")
    weights: str = weights_flag()


def main(config: Config) -> int:
    """Exit status: 0 finished, 143 stopped by a signal with everything saved."""
    import torch

    from core.system import distributed

    with distributed.job(config.device, config.strict_fp32) as device:
        torch.manual_seed(config.seed)
        return Pretraining(config, device, say).run()


class Pretraining(training.pretraining.Pretraining):
    """The seven paragraphs of every pretraining script: data, objective, optimizer, resume, fit, export."""

    told = ""  # of the last panel

    # data

    def check_flags(self) -> None:
        """Refuse what cannot work before a million files are read."""
        from core.checks import check_numbers
        from core.system.device import resolve_precision
        from data.views.augmentation import CropFlip
        from data.views.preprocessing import Preprocessing
        from models.networks.mae import named_config

        c = self.config
        for name, count in (("input_size", (1, 2)), ("mean", (3,)), ("std", (3,)), ("crop_scale", (2,))):
            if len(getattr(c, name)) not in count:
                raise ValueError(f"--{name} takes {' or '.join(map(str, count))} numbers, not {len(getattr(c, name))}")
        check_numbers(c, ("seed", "num_workers", "warmup_epochs", "save_freq", "save_minutes", "panel_freq", "blr",
                            "lr", "min_lr", "weight_decay", "clip_grad"))  # fmt: skip
        check_numbers(c, ("log_steps",), low=1)
        if c.warmup_epochs is not None and c.warmup_epochs >= c.epochs > 0:
            raise ValueError(
                f"--warmup_epochs {c.warmup_epochs}: the run has {c.epochs} epochs; its learning rate would never peak"
            )
        size = tuple(c.input_size) if len(c.input_size) == 2 else (c.input_size[0],) * 2
        self.crop = CropFlip(*size, tuple(c.crop_scale), own_aspect=c.own_aspect, flip=c.flip)
        # radiographs are read with bone bright, neg-log expects detector counts (bone dark)
        options = {"complement": True} if c.intensity == "neglog" else {}
        self.preprocessing = Preprocessing(*size, intensity=c.intensity, intensity_options=options, mean=tuple(c.mean),
                                           std=tuple(c.std))  # fmt: skip
        self.network = c.model
        self.architecture = named_config(
            c.model, input_size=size, mask_ratio=c.mask_ratio, norm_pix_loss=c.norm_pix_loss
        )
        resolve_precision(c.precision, self.device)
        self.check_packages()

    def read_data(self):
        """(training files, held-out files, quarantine table): every file is read once before training starts."""
        from core.system import distributed

        c = self.config

        def find():
            from data.datasets.unlabelled import usable_radiographs

            return usable_radiographs(c.data_path, c.val_path, Path(c.output_dir), workers=c.num_workers,
                                      stop=c.on_bad_image == "stop", earlier=c.audit, note=self.write_quarantine,
                                      tell=self.say, progress=bar("reading files"))  # fmt: skip

        return distributed.from_main(find)

    def write_quarantine(self, bad) -> None:
        """Main process: which files cannot be used, and why."""
        from core.tables import write_table
        from data.reading.audit import quarantined

        write_table(Path(self.config.output_dir) / "quarantine.csv", list(bad.columns), quarantined(bad))

    def batches(self, paths):
        from core.system import distributed
        from data.datasets.loader import step_batches
        from data.datasets.unlabelled import UnlabelledRadiographs

        c, p = self.config, self.preprocessing
        quarantine = Path(c.output_dir) / "quarantine.jsonl" if c.on_bad_image == "skip" else None
        dataset = UnlabelledRadiographs(paths, p, self.crop, c.seed, self.objective.config.patches, quarantine)
        return step_batches(dataset, self.plan, seed=c.seed, rank=distributed.rank(), num_workers=c.num_workers,
                            pin_memory=c.pin_mem and self.device.type == "cuda")  # fmt: skip

    # objective

    def make_objective(self):
        from core.system.device import use_explicit_attention
        from models.backbones.card import stated_licence
        from models.networks.mae import MaskedAutoencoder
        from models.weights.checkpoint import load_mae

        c = self.config
        mae = MaskedAutoencoder(self.architecture, self.preprocessing.normalise)
        self.initial_licence = stated_licence(c.init_from) if c.init_from else None
        if c.init_from:
            source = load_mae(c.init_from, input_size=self.architecture.input_size, weights=c.weights)
            own, other = mae.state_dict(), source.model.state_dict()
            wrong = [k for k in own if k not in other or own[k].shape != other[k].shape]
            if wrong:
                raise ValueError(f"--init_from {c.init_from}: does not fit --model {c.model} ({len(wrong)} tensors "
                                 f"differ, e.g. {wrong[0]})")  # fmt: skip
            mae.load_state_dict(other)
            say(f"starting from {c.init_from}: {source.report}")
        use_explicit_attention(mae, self.device)
        return mae

    # optimizer

    def make_optimizer(self):
        from training.optim import adamw, parameter_groups
        from training.schedules import constant, warmup_cosine

        c = self.config
        peak = c.lr if c.lr is not None else c.blr * self.plan.global_batch / 256
        warmup = 1 / 20 if c.warmup_epochs is None else c.warmup_epochs / c.epochs
        schedules = {"lr": warmup_cosine(peak, c.min_lr, warmup), "weight_decay": constant(c.weight_decay)}
        return adamw(parameter_groups(self.objective), betas=(0.9, 0.95)), schedules

    # during and after

    def export(self, step: int) -> None:
        """Main process, at every save: OUTPUT_DIR/model and curves.png."""
        from evaluation.pages.training_curves import draw_curves
        from models.backbones.card import Provenance, mae_card
        from models.weights.checkpoint import save_mae

        c, out = self.config, Path(self.config.output_dir)
        references = self.references if self.held_out and c.panel_freq else {}
        figures = self.latest_losses() | {f"{name}, held out": loss for name, loss in references.items()}
        run = Provenance(recipe=asdict(c), radiographs=self.plan.samples, step=step, last_step=self.plan.last_step,
                         licence=c.licence, initial_licence=self.initial_licence, figures=figures)  # fmt: skip
        card = mae_card(self.objective.config, run)
        save_mae(self.objective, out / "model", self.preprocessing.to_dict(), card)
        if (out / "metrics.jsonl").exists():
            draw_curves(out / "metrics.jsonl", out / "curves.png", title=c.model, references=references)

    def latest_losses(self) -> dict[str, float]:
        """Main process: training and held-out loss as last logged."""
        from evaluation.pages.training_curves import read_metrics

        path, names = Path(self.config.output_dir) / "metrics.jsonl", {"loss": "training", "val_loss": "held out"}
        records = read_metrics(path) if path.exists() else []
        return {label: record[key] for record in records for key, label in names.items() if key in record}

    def after_epoch(self, epoch: float, step: int) -> None:
        """Every so many epochs and at the end: held-out loss and the panel of reconstructions."""
        from core.system import distributed

        every = self.config.panel_freq
        if every and (epoch % every == 0 or step == self.plan.last_step):
            distributed.from_main(lambda: self.look(epoch, step))

    def look(self, epoch: float, step: int) -> None:
        """Main process."""
        from workflows.heatmaps.panel import outlook

        c, name = self.config, f"epoch_{int(epoch):05d}" + (f"_step_{step}" if epoch % 1 else "")
        loss = self.fixed_set.loss(self.objective, self.device)
        caption = f"epoch {epoch:.5g}, {percent(c.mask_ratio)} of the patches hidden, "
        if self.held_out:
            record = {"step": step, "epoch": round(epoch, 4), "val_loss": loss}
            self.folder.log(record)
            if self.tensorboard:
                self.tensorboard(record)
            caption += f"held-out loss {loss:.4f}"
            caption += "".join(f"; {method} {value:.4f}" for method, value in self.references.items())
        else:
            caption += f"training loss {loss:.4f}; these radiographs are trained on (--val_path holds some out)"
        self.fixed_set.draw(self.objective, self.device, Path(c.output_dir) / "panels" / f"{name}.png", caption)
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
        import numpy as np
        import torch

        from data.reading.refusal import UnreadableRadiograph
        from training.sampling import sample_generator
        from workflows.heatmaps.panel import FixedSet

        def read(chosen: list) -> torch.Tensor:
            images = []
            for path in chosen:
                try:
                    images.append(self.preprocessing.fit(self.preprocessing.read(path)))
                except UnreadableRadiograph as error:  # readable a moment ago; the loader notes and replaces it
                    say(f"left out of the panel: {error}")
            if not images:
                raise ValueError("none of the radiographs of the panel can be read any more")
            return torch.stack(images)

        shown = evenly(self.held_out or paths, most=FixedSet.shown)  # the panel draws the first: some of all kinds
        images = read(shown + [p for p in self.held_out if p not in shown])
        masks = [sample_generator(0, 0, i).random(self.objective.config.patches, dtype=np.float32) for i in range(4)]
        noise = torch.from_numpy(np.stack([masks[i % 4] for i in range(len(images))]))  # four masks, shared
        normalise, grey = self.preprocessing.normalise, self.preprocessing.denormalise
        mean_image = grey(normalise(read(evenly(paths, most=64)))).mean((0, 1)).numpy() if self.held_out else None
        self.fixed_set = FixedSet(images, noise, normalise, grey, mean_image)

    def advice(self) -> str:
        """A run of few steps ends with a mean picture, which looks like a defect to those who do not know it."""
        import math

        from workflows.heatmaps.panel import EARLY_STEPS

        plan = self.plan
        if plan.last_step >= EARLY_STEPS or self.config.norm_pix_loss:
            return ""
        more = f"--epochs {math.ceil(EARLY_STEPS / plan.steps_per_epoch)} makes at least {EARLY_STEPS:,}"
        if plan.last_step < plan.total_steps:
            more = "--max_steps ends it early"
        steps = "1 step is" if plan.last_step == 1 else f"{plan.last_step:,} steps are"
        return f"{steps} few: reconstructions will be a blur, perhaps a mean picture; {more}"

    @functools.cached_property
    def references(self) -> dict:
        """Held-out losses of what needs no learning; measured once, on the main process."""
        return self.fixed_set.reference_losses(self.objective)


if __name__ == "__main__":
    run(main, Config)
