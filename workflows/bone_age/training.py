"""Training of a bone-age network."""

import io
import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from core.checks import check_batch, check_numbers
from core.files import check_archive, printable, short_hash, write_bytes, write_text
from core.progress import bar, say
from core.system import distributed
from core.system.device import use_explicit_attention
from core.tables import write_table
from core.text import shortened
from data.datasets.dataset import RadiographDataset
from data.datasets.kept_radiographs import KeptRadiographs
from data.datasets.loader import ordered_batches, step_batches
from data.datasets.split_table import joined_splits
from data.datasets.splits import training_splits
from data.reading.audit import readable_records
from data.releases import rsna_bone_age
from data.releases.rsna_bone_age import PARTS
from data.views.augmentation import CropTurnShift
from data.views.preprocessing import Preprocessing
from evaluation.pages.html import anonymous
from evaluation.pages.training_curves import draw_curves
from evaluation.statistics.likeness import FILE, Likeness
from evaluation.statistics.novelty import look
from evaluation.statistics.trivial_answers import kept_score
from models.backbones.backbone import build_backbone
from models.backbones.card import backbone_licence, finetuned_card
from models.backbones.features import seen_and_held_out
from models.backbones.finetuned import save_finetuned
from models.backbones.names import find, source_hash
from models.backbones.published_bone_age import save_published
from models.networks.batch_norm import synchronised
from models.networks.bone_age import BoneAge
from phantoms.layouts.files import told_data
from training.cross_validation import CrossValidation
from training.fold import RECIPE, fold_plan, forget_states, predictions, train_fold
from training.fold_files import is_made, read_predictions, with_null, write_predictions
from training.kept_facts import KeptFacts
from training.run import RunFolder
from workflows.bone_age.checks import range_warning
from workflows.bone_age.folds import left_out_intervals, together
from workflows.bone_age.reference import BoneAgeReference
from workflows.bone_age.report import BoneAgePage, write_bone_age_report, write_bone_age_tables
from workflows.bone_age.result import do_not_use

ROOTS = (Path("data"), Path("data/boneage"))  # BoneXage's place, and train_downstream's
LEVEL = 0.95  # of the intervals
# flags that do not decide the numbers; of data and weights their content counts
FREE = {
    "data_root",
    "output_dir",
    "num_workers",
    "cache_gb",
    "device",
    "verbose",
    "on_bad_image",
    "backbone",
    "csv",
    "image_col",
    "target_col",
    "sex_col",
    "patient_col",
    "group_distance",
    "splits",
    "fold",
    "k_folds",
    "split",
    "val_split",
    "audit",
}
SHOWN = {
    "backbone",
    "input_size",
    "loss",
    "batch_size",
    "epochs",
    "lr",
    "min_lr",
    "weight_decay",
    "layer_decay",
    "warmup_epochs",
    "clip_grad",
    "drop_path",
    "crop",
    "flip",
    "degrees",
    "shift",
    "settle",
    "seed",
    "split",
    "val_split",
    "k_folds",
    "precision",
}


def train(config) -> int:
    """Exit status: 0 finished, 143 stopped by a signal with everything saved."""
    with distributed.job(config.device) as device:
        return BoneAgeTraining(config, device).run()


class BoneAgeTraining(CrossValidation):
    """From the tables to the network and its results."""

    def __init__(self, config, device):
        super().__init__(config, device, config.output_dir, say)
        self.weights: str | None = None  # hash of what is begun from
        self.kept = None  # radiographs in memory

    @property
    def crossed(self) -> bool:
        """Whether there are several folds, whose left-out parts choose nothing."""
        return len(self.splits.folds) > 1

    # data ----------------------------------------------------------------------------------------------------------

    def check_flags(self) -> None:

        c = self.config
        world = distributed.world_size()
        if c.csv is not None and c.split == "official":
            raise ValueError("--split official: a table of your own has no official split")
        if c.k_folds < 0 or c.k_folds == 1:
            raise ValueError(f"--k_folds {c.k_folds}: expected 0 or at least 2")
        if c.k_folds and c.split == "official":
            raise ValueError("--k_folds divides the training set; it takes no --split official")
        if c.accum_iter < 1:
            raise ValueError(f"--accum_iter {c.accum_iter}: expected a whole number from 1 on")
        check_batch(c, "batch_size", world, c.accum_iter, fewest=2)
        check_numbers(c, ("epochs", "lr", "layer_decay", "input_size"), above=True)
        check_numbers(
            c,
            (
                "min_lr",
                "weight_decay",
                "warmup_epochs",
                "clip_grad",
                "num_workers",
                "cache_gb",
                "seed",
            ),
        )
        if not 0 < c.val_split < 1:
            raise ValueError(f"--val_split {c.val_split}: expected a share above 0 and below 1")
        for name, most in (
            ("drop_path", 1),
            ("crop", 1),
            ("flip", 1),
            ("degrees", 180),
            ("shift", 1),
        ):
            if not 0 <= getattr(c, name) <= most or (name == "crop" and not c.crop):
                raise ValueError(f"--{name} {getattr(c, name)}: expected 0 to {most}")

    def check_weights(self) -> None:

        find(self.config.backbone)

    def read(self):

        c = self.config
        missing = {"keep_missing": c.on_bad_image == "skip"}  # the audit tells of them
        if c.csv is not None:
            looking = {
                "cache": self.out / "looks.csv",
                "workers": c.num_workers,
                "progress": bar("looking for duplicates"),
            }
            looking |= {} if c.group_distance is None else {"distance": c.group_distance}
            records = rsna_bone_age.own_table(
                c.data_root,
                csv=c.csv,
                image_col=c.image_col,
                target_col=c.target_col,
                sex_col=c.sex_col,
                patient_col=c.patient_col,
                **missing,
                **({} if c.patient_col else looking),
            )
            root = c.data_root or c.csv.parent
        else:
            root = c.data_root or self.found_root()
            records = rsna_bone_age.BoneAge.read(root, **missing)
        task = records.attrs["task"]
        notices = list(records.attrs.get("notices", []))
        unknown = records["sex"].isna().to_numpy()
        if unknown.any():
            notices.append(
                f"{unknown.sum()} of {len(records)} radiographs are of nobody knows which sex and are left out"
            )
        records = records[~unknown].reset_index(drop=True)
        records, told, _ = readable_records(
            records,
            self.out / "quarantine.csv",
            on_bad=c.on_bad_image,
            cache=self.out / "audit.csv",
            earlier=c.audit,
            tell=self.say,
            workers=c.num_workers,
            progress=bar("reading files"),
        )
        records = records.assign(male=(records["sex"] == "M").astype(float))
        records.attrs.clear()
        return records, task, notices + told, root

    def found_root(self) -> Path:
        """The first of `ROOTS` that holds RSNA's training table."""
        for root in ROOTS:
            if any((root / table).is_file() for table in PARTS[0].tables):
                return root
        places = " or ".join(str(root / PARTS[0].tables[0]) for root in ROOTS)
        raise FileNotFoundError(
            f"no table {places}; the README says where to get RSNA's data and the tree to put it "
            "in; --data_root if it is elsewhere, --csv for your own"
        )

    def make_splits(self):

        c = self.config
        official = self.config.split == "official"
        return joined_splits(
            self.records,
            self.root,
            self.out / "splits.csv",
            lambda records: training_splits(
                records,
                self.task,
                val_fraction=c.val_split,
                folds=c.k_folds,
                official=official,
                seed=c.seed,
            ),
            given=c.splits,
            crossing=official,
            final=(self.out / "predictions").exists(),
            flag="--output_dir",
            workers=c.num_workers,
            progress=bar("sha256"),
        )

    def sizes(self) -> str:
        fold = self.splits.folds[0]
        folds = len(self.splits.folds)
        parts = f"{len(fold.train):,} to learn from, {len(fold.val):,} to choose the epoch"
        parts = (
            f"{folds} folds of about {len(fold.train):,} + {len(fold.val):,}"
            if self.crossed
            else parts
        )
        return (
            f"{len(self.records):,} radiographs of {self.records['patient'].nunique():,} patients; {parts}, "
            f"{len(self.splits.test):,} to test, on {self.device}"
        )

    def data(self, rows, preprocessing, transform=None):
        """The data set of some rows, its radiographs from memory, with the sex."""
        c = self.config
        if self.kept is None:
            kept = KeptRadiographs(self.records["image"].tolist(), preprocessing, c.cache_gb)
            self.kept = kept.fill(c.num_workers)
            for note in kept.notes:
                say(f"note: {note}")
        return RadiographDataset(
            self.records.iloc[list(rows)],
            preprocessing,
            transform,
            seed=c.seed,
            keep=self.kept,
            extra=("male",),
        )

    def batches(self, preprocessing):
        """rows -> their batches in order, for predicting."""
        return lambda rows: ordered_batches(
            self.data(rows, preprocessing), range(len(rows)), batch_size=32
        )

    # one fold ------------------------------------------------------------------------------------------------------

    def identity(self, number: int) -> dict:
        """What decides the predictions of a fold: flags, content of files, ages, sexes and weights."""
        fold = self.splits.folds[number]
        told = self.records[["target", "sex"]].values
        sides = [
            [(self.hashes[row], *map(str, told[row])) for row in rows]
            for rows in (fold.train, fold.val, self.splits.test)
        ]
        fixed = {key: value for key, value in asdict(self.config).items() if key not in FREE}
        if self.weights is None:
            self.weights = source_hash(self.config.backbone, self.config.weights)
        return fixed | {
            "weights": self.weights,
            "precision": self.precision,
            "split": short_hash(sides),
            "fold": number,
            "chosen": not self.crossed,
        }

    def fold(self, number: int) -> bool:

        c = self.config
        fold = self.splits.folds[number]
        file = self.file_of(number)
        folder = self.out / "training" / f"fold{number}"
        identity = distributed.from_main(lambda: self.identity(number))
        if distributed.from_main(lambda: is_made(file, identity, "--output_dir")):
            distributed.from_main(lambda: forget_states(folder))
            return True
        say(f"fold {number}: {len(fold.train):,} radiographs to train on")
        model, preprocessing = self.network(number)
        transform = CropTurnShift(
            preprocessing, (c.crop, 1.0), flip=c.flip, degrees=c.degrees, shift=c.shift
        )
        dataset = self.data(fold.train, preprocessing, transform)
        batches = self.batches(preprocessing)
        plan = fold_plan(len(dataset), c.batch_size, c.epochs, c.accum_iter)
        truth = self.records["target"].to_numpy(float)[fold.val]

        def predicted(rows):
            return predictions(
                model, list(rows), batches, self.device, self.precision, ("image", "extra")
            )

        def score() -> float:
            return (
                math.nan
                if self.crossed
                else float(np.abs(predicted(fold.val)[:, 0] - truth).mean())
            )

        recipe = {name: getattr(c, name, None) for name in (*RECIPE, "min_lr")} | {
            "beta1": 0.9,
            "beta2": 0.999,
        }
        facts = train_fold(
            model,
            RunFolder(folder, identity),
            recipe,
            plan=plan,
            larger_is_better=False,
            about=asdict(c),
            score=score,
            batches=step_batches(
                dataset, plan, seed=c.seed, rank=distributed.rank(), num_workers=c.num_workers
            ),
            device=self.device,
            precision=self.precision,
            seed=c.seed,
            progress_bar=c.verbose,
            clip_norm=c.clip_grad or None,
            log_every=max(1, min(50, plan.steps_per_epoch)),
            name_of=lambda row: str(dataset.records["image"].iloc[row]),
        )
        if facts is None:
            return False
        seen, few = self.seen(model, preprocessing, number)
        if c.settle:
            male = torch.from_numpy(self.records["male"].to_numpy(np.float32)[few])
            model.settle(torch.from_numpy(seen["training_features"]).float().to(self.device), male)
        made = {
            side: predicted(rows) for side, rows in (("val", fold.val), ("test", self.splits.test))
        }
        facts["validation"] = float(np.abs(made["val"][:, 0] - truth).mean())
        trained = self.kept_facts(number, made["val"])
        distributed.from_main(
            lambda: self.keep(number, model, preprocessing, made, seen, identity, facts, trained)
        )
        distributed.from_main(lambda: forget_states(folder))
        return True

    def file_of(self, number: int) -> Path:
        """Where the predictions of a fold are."""
        return self.out / "predictions" / f"fold{number}.csv"

    def seen_file(self, number: int) -> Path:
        """Where the features of a fold are until its reference is made of them."""
        return self.out / "training" / f"fold{number}" / "seen.npz"

    def folder_of(self, number: int) -> Path:
        """Where the network of a fold is."""
        return self.out / "models" / f"fold{number}" if self.crossed else self.out / "model"

    def network(self, number: int):
        """(objective on its device, preprocessing) of a fold; the same random weights whatever was made before."""

        c = self.config
        torch.manual_seed(c.seed + number)
        side = (c.input_size, c.input_size)
        backbone = build_backbone(
            c.backbone, input_size=side, drop_path=c.drop_path, weights=c.weights
        )
        if self.tells(number):
            say(f"{c.backbone}: {backbone.report}")
        preprocessing = Preprocessing.of(backbone.preprocessing, side)
        model = BoneAge(backbone, preprocessing.normalise, c.loss)
        use_explicit_attention(model.to(self.device), self.device)
        return synchronised(model, self.device), preprocessing

    def seen(self, model, preprocessing, number: int):
        """(features and looks of some training radiographs and of those left out, which tell whether a hand is like
        them, and the rows of the former)."""
        few = self.kept_rows(number)
        held_out = list(self.splits.folds[number].val)
        seen = seen_and_held_out(
            model,
            look,
            list(few),
            held_out,
            self.batches(preprocessing),
            self.device,
            self.precision,
        )
        return seen, few

    def kept_rows(self, number: int):
        """The training radiographs of a fold that its reference remembers."""
        train = self.splits.folds[number].train
        return train[Likeness.sample(len(train), self.config.seed)]

    # results -------------------------------------------------------------------------------------------------------

    def kept_facts(self, number: int, predicted):
        """What the network's folder tells of its training; `predicted`: [V, 2] of the validation rows."""
        fold = self.splits.folds[number]
        target = self.records["target"].to_numpy(float)
        layout = "RSNA Pediatric Bone Age" if self.config.csv is None else ""
        data = told_data(self.records["image"].iloc[fold.train], layout)
        patients = self.records["patient"].iloc[fold.val].tolist()
        return KeptFacts(
            data,
            len(fold.train),
            kept_score(
                "regression",
                target[fold.val],
                predicted[:, 0],
                patients,
                target[fold.train],
                unit="months",
                constant="one age for all",
            ),
        )

    def keep(
        self,
        number: int,
        model,
        preprocessing,
        made: dict,
        seen: dict,
        identity: dict,
        facts: dict,
        trained,
    ) -> None:
        """Main process: the network, then what it predicts."""
        c = self.config
        folder = self.folder_of(number)
        side = "left out" if self.crossed else "validation"
        card = finetuned_card(
            "Bone age from a radiograph of the hand" + (f", fold {number}" if self.crossed else ""),
            f"Bone age in months (0 to 240) from a radiograph and the sex; trained on {trained.trained_on}.",
            c.backbone,
            {
                "loss": c.loss,
                "input": f"{c.input_size} pixels",
                "epoch": f"{facts['epoch']:g}",
                "steps": facts["steps"],
                f"mean absolute error, {side}": f"{facts['validation']:.1f} months",
            }
            | trained.rows,
            backbone_licence(c.backbone),
            "scripts/predict_bone_age.py",
        )
        about = {
            "backbone": shortened(c.backbone),
            "loss": c.loss,
            "fold": number,
            "val_mae": facts["validation"],
        }
        about |= facts | {"training": trained.kept()}
        save_finetuned(model, folder, preprocessing.to_dict(), about, card)
        buffer = io.BytesIO()
        np.savez(buffer, **{name: values.astype(np.float32) for name, values in seen.items()})
        write_bytes(self.seen_file(number), buffer.getvalue())
        if not self.crossed:
            told = {"epoch": int(facts["epoch"]), "val_mae": facts["validation"]}
            if not save_published(
                model, self.out / "best_model.pth", preprocessing.to_dict(), about, told
            ):
                say(
                    f"note: BoneXage's layout has no place for this network ({c.backbone}, {c.loss}): no best_model.pth"
                )
        sides = [
            ("val", self.records.iloc[self.splits.folds[number].val], made["val"]),
            ("test", self.records.iloc[self.splits.test], made["test"]),
        ]
        write_predictions(self.file_of(number), sides, ["months", "sd"], ["sex"], identity, facts)

    def conclude(self) -> None:
        """Main process: intervals, tables, page and summary, once all folds are there."""
        target = self.records["target"].to_numpy(float)
        sex = self.records["sex"].tolist()
        made = []
        rows = []
        folds = []
        for number, fold in enumerate(self.splits.folds):
            if is_made(self.file_of(number), self.identity(number), "--output_dir"):
                made.append(read_predictions(self.file_of(number), target[fold.val], number))
                rows = [*rows, *fold.val]
                folds = [*folds, *[number] * len(fold.val)]
        if len(made) < len(self.splits.folds):
            say(f"{len(made)} of {len(self.splits.folds)} folds are made; no results yet")
            return
        months, sd = np.concatenate([one.val for one in made]).T
        spread = None if np.isnan(sd).any() else sd
        reference = self.write_references(target[rows], months, [sex[row] for row in rows], spread)
        low = high = None
        if self.crossed:
            low, high = left_out_intervals(
                target[rows], months, [sex[row] for row in rows], spread, np.array(folds), LEVEL
            )
        judged = {"left out" if self.crossed else "validation": (rows, months, sd, low, high)}
        if len(self.splits.test):
            # the errors are those of single networks: of their mean, intervals are rather too wide
            months, sd = together(*np.moveaxis([one.test for one in made], 2, 0))
            ends = reference.interval(months, sd if spread is not None else None, LEVEL)
            judged = {"test": (list(self.splits.test), months, sd, *ends)} | judged
        if reason := reference.reason(LEVEL):
            self.notices.append(reason)
            say(f"note: {reason}")
        log = self.out / "training" / "fold0" / "metrics.jsonl"
        draw_curves(
            log,
            self.out / "curves.png",
            title=f"{self.config.backbone}, {self.config.loss}",
            others={"mae": "mean absolute error, months"},
            judged="" if self.crossed else "mae",
        )
        self.write_results(judged, [one.facts for one in made])

    def write_references(self, target, months, sex: list, spread):
        """reference.npz beside each network, of the errors of all folds and its own features; returns the last."""
        records = self.records
        reference = None
        patients = records["patient"].astype(str)
        for number, fold in enumerate(self.splits.folds):
            check_archive(self.seen_file(number))
            with np.load(self.seen_file(number), allow_pickle=False) as seen:
                found = {name: seen[name] for name in seen.files}
            learnt = np.concatenate([fold.train, fold.val]) if self.crossed else fold.train
            likeness = Likeness.fit(
                **found,
                patients=patients.iloc[fold.val],
                training_patients=patients.iloc[self.kept_rows(number)],
            )
            reference = BoneAgeReference.fit(
                target,
                months,
                sex,
                spread=spread,
                training_target=records["target"].to_numpy(float)[learnt],
                training_sex=[records["sex"].iloc[row] for row in learnt],
                likeness=likeness,
            )
            reference.save(self.folder_of(number) / FILE)
        return reference

    def write_results(self, judged: dict, facts: list[dict]) -> None:
        """predictions.csv and summary.json; report.html and tables of what is judged first, others in a folder."""
        table = []
        summary = {"folds": facts, "notices": self.notices}
        ages = self.training_ages()
        for side, (rows, *values) in judged.items():
            page = self.page(side, rows, *values)
            first = side == next(iter(judged))
            folder = self.out if first else self.out / side.replace(" ", "_")
            folder.mkdir(parents=True, exist_ok=True)
            write_bone_age_report(folder / "report.html", page)
            write_bone_age_tables(folder, page)
            scores = {name: found._asdict() for name, found in page.results["scores"].items()}
            baselines = {
                name: {metric: found._asdict() for metric, found in several.items()}
                for name, several in page.results["baselines"].items()
            }
            summary[side] = {
                "radiographs": len(rows),
                "scores": scores,
                "baselines": baselines,
                "against": page.results["against"],
            }
            given = [np.full(len(rows), np.nan) if one is None else one for one in values]
            for row, months, sd, low, high in zip(rows, *given):
                record = self.records.iloc[row]
                table.append(
                    {
                        "path": printable(record["image"]),
                        "patient": record["patient"],
                        "split": side,
                        "sex": record["sex"],
                        "target": record["target"],
                        "months": months,
                        "sd": sd,
                        "low": low,
                        "high": high,
                        "do_not_use": do_not_use([range_warning([months], ages[row])]),
                    }
                )
            found = page.results["scores"]["mae"]
            baseline = ", ".join(
                f"{name} {several['mae'].estimate:.1f}"
                for name, several in page.results["baselines"].items()
            )
            say(
                f"{side}, {len(rows):,} radiographs: mean absolute error {found.estimate:.2f} months "
                f"({found.low:.2f} to {found.high:.2f}); {baseline}"
            )
        columns = (
            "path",
            "patient",
            "split",
            "sex",
            "target",
            "months",
            "do_not_use",
            "sd",
            "low",
            "high",
        )
        write_table(self.out / "predictions.csv", columns, table)
        write_text(
            self.out / "summary.json", json.dumps(with_null(summary), indent=1, default=str) + "\n"
        )
        say(f"written: {self.out}")

    def training_ages(self) -> dict[int, tuple[float, float]]:
        """Row -> the youngest and oldest age that the networks which predict it were trained on."""
        target = self.records["target"].to_numpy(float)
        folds = self.splits.folds
        found = {}
        sides = [(fold.val, fold.train) for fold in folds]
        sides.append((self.splits.test, np.concatenate([fold.train for fold in folds])))
        for predicted, learnt in sides:
            found |= dict.fromkeys(
                map(int, predicted), (np.nanmin(target[learnt]), np.nanmax(target[learnt]))
            )
        return found

    def page(self, side: str, rows: list, months, sd, low, high):
        """What the page of one side shows."""
        c = self.config
        records = self.records.iloc[rows]
        fold = self.splits.folds[0]
        learnt = self.records.iloc[
            np.concatenate([fold.train, fold.val]) if self.crossed else fold.train
        ]
        patients = set(self.records["patient"].astype(str))
        lead = {
            "test": "The release's own test radiographs, scored once.",
            "validation": "Radiographs that chose the epoch: a little too good to be those of other hands.",
            "left out": f"Each hand by one of {len(self.splits.folds)} networks, which has not seen its patient; "
            "nothing was chosen on it.",
        }[side]
        subject = "Bone age" if c.csv is None else f"{c.target_col} in {c.csv.name}"
        return BoneAgePage(
            title=f"{subject}: {Path(c.backbone).name}, {side}",
            lead=f"{lead} Research use only, not for diagnosis.",
            target=records["target"].to_numpy(float),
            predicted=months,
            sex=records["sex"].tolist(),
            patients=records["patient"].astype(str).tolist(),
            names=[printable(Path(image).name) for image in records["image"]],
            training_target=learnt["target"].to_numpy(float),
            training_sex=learnt["sex"].tolist(),
            picture=lambda row: self.shown(records["image"].iloc[row]),
            low=low,
            high=high,
            level=LEVEL,
            counts={
                "radiographs": f"{len(self.records):,}",
                "patients": f"{len(patients):,}",
                "to learn from": f"{len(fold.train):,}",
                "networks": str(len(self.splits.folds)),
            },
            notices=[
                anonymous(notice.replace(f"{self.root}/", ""), patients) for notice in self.notices
            ],
            settings={name: value for name, value in asdict(c).items() if name in SHOWN},
            seed=c.seed,
        )

    def shown(self, path: str):
        """A radiograph for people: uint8 [H, W], its own shape."""
        return Preprocessing(height=160, width=160).read(path)
