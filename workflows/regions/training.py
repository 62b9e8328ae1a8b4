"""Training of the region-guided classifier."""

import json
import os
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import torch

from core.checks import check_batch, check_numbers
from core.files import printable, short_hash, write_text
from core.progress import bar, say
from core.system import distributed
from core.system.device import use_explicit_attention
from core.tables import write_table
from core.text import shortened
from core.tumour_labels import LABELS, read_classes
from data.datasets.loader import ordered_batches, step_batches
from data.datasets.split_table import joined_splits
from data.datasets.splits import grouped_splits
from data.reading.audit import readable_records
from data.views.preprocessing import Preprocessing
from evaluation.pages.html import anonymous
from evaluation.statistics.group_metrics import selection_score
from evaluation.statistics.likeness import FILE, Likeness
from evaluation.statistics.novelty import look
from evaluation.statistics.trivial_answers import kept_group_score
from models.backbones.backbone import build_backbone
from models.backbones.card import backbone_licence, finetuned_card
from models.backbones.features import seen_and_held_out
from models.backbones.finetuned import save_finetuned
from models.backbones.names import find, source_hash
from models.networks.batch_norm import synchronised
from models.networks.region_guided import RegionGuided
from phantoms.layouts.files import told_data
from training.cross_validation import CrossValidation
from training.fold import fold_plan, forget_states, predictions, train_fold
from training.fold_files import is_made, read_predictions, write_predictions
from training.kept_facts import KeptFacts, joined_names
from training.run import RunFolder
from training.schedules import whole_warmup
from workflows.regions.answers.group_calibration import fit_group_temperatures
from workflows.regions.answers.page import RegionPage
from workflows.regions.answers.report import write_region_report
from workflows.regions.answers.tables import write_region_tables
from workflows.regions.flags import RegionSources
from workflows.regions.records.crop_places import CropPolicy
from workflows.regions.records.crops import RegionCrops
from workflows.regions.records.records import label_array
from workflows.regions.records.sources import RELEASES, named_sources, read_sources

# flags that do not decide the numbers; of the data their content counts
FREE = {
    "output_dir",
    "num_workers",
    "fold",
    "splits",
    "device",
    "verbose",
    "class_file",
    "on_bad_image",
    "n_splits",
    "test_fraction",
    "pretrained_path",
    "centers",
    "audit",
}


def train(config) -> int:
    """Exit status: 0 finished, 143 stopped by a signal with everything saved."""
    with distributed.job(config.device) as device:
        return RegionTraining(config, device).run()


def training_recipe(config, steps: int) -> dict[str, float]:
    """The optimizer's settings for a fold of `steps` steps; the warm-up takes whole steps, as SKELEX's does."""
    return {
        "lr": config.lr,
        "weight_decay": config.weight_decay,
        "layer_decay": config.layer_decay,
        "beta1": 0.9,
        "beta2": 0.999,
        "epochs": config.epochs,
        "warmup_epochs": config.epochs * whole_warmup(config.warmup, steps),
    }


class RegionTraining(CrossValidation):
    """All folds, from the sources to the results."""

    def __init__(self, config, device):
        super().__init__(config, device, config.output_dir, say)
        self.weights: str | None = None  # hash of what is begun from

    # data ----------------------------------------------------------------------------------------------------------

    def check_flags(self) -> None:
        """Refuse what cannot work before thousands of files are read."""
        c = self.config
        if c.num_classes != len(LABELS):
            raise ValueError(
                f"--num_classes {c.num_classes}: the classifier has {len(LABELS)} labels"
            )
        read_classes(c.class_file)
        named_sources(c, c.centers)
        check_batch(c, "batch_size", distributed.world_size())
        check_numbers(c, ("epochs", "lr", "layer_decay", "input_size"), above=True)
        check_numbers(c, ("weight_decay", "num_workers", "seed"))
        check_numbers(c, ("warmup", "drop_path", "whole", "flip"), high=1)

    def check_weights(self) -> None:

        find(self.config.pretrained_path)

    def read(self):

        c = self.config
        records = read_sources(
            c,
            centers=c.centers,
            cache=self.out / "looks.csv",
            workers=c.num_workers,
            progress=bar("looking for duplicates"),
        )
        task, notices, refused = (records.attrs[name] for name in ("task", "notices", "refused"))
        if refused:
            write_table(
                self.out / "refused.csv",
                ["path", "why"],
                [dict(zip(("path", "why"), row)) for row in refused],
            )
        records.attrs.clear()
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
        root = Path(os.path.commonpath([str(Path(image).parent) for image in records["image"]]))
        return records, task, [*notices, *told], root

    def make_splits(self):

        c = self.config
        return joined_splits(
            self.records,
            self.root,
            self.out / "splits.csv",
            lambda records: grouped_splits(
                records, self.task, folds=c.n_splits, test_fraction=c.test_fraction, seed=c.seed
            ),
            given=c.splits,
            final=(self.out / "predictions").exists(),
            flag="--output_dir",
            workers=c.num_workers,
            progress=bar("sha256"),
        )

    def sizes(self) -> str:
        fold = self.splits.folds[0]
        folds = len(self.splits.folds)
        return (
            f"{len(self.records):,} radiographs of {self.records['patient'].nunique():,} patients or groups; "
            f"{len(self.splits.test):,} held out, {folds} folds of about {len(fold.train):,} + {len(fold.val):,}, "
            f"on {self.device}"
        )

    def data(self, rows, preprocessing, policy=None):
        """The data set of some rows; findings are known of the training rows alone."""
        return RegionCrops(
            self.records.iloc[list(rows)], preprocessing, policy, seed=self.config.seed
        )

    # one fold ------------------------------------------------------------------------------------------------------

    def identity(self, number: int) -> dict:
        """What decides the predictions of a fold: flags, content of files, labels, boxes and weights."""
        fold = self.splits.folds[number]
        told = self.records[["labels", "boxes"]].values
        sides = [
            [(self.hashes[row], np.asarray(told[row][0]).tolist(), told[row][1]) for row in rows]
            for rows in (fold.train, fold.val, self.splits.test)
        ]
        free = FREE | {field.name for field in fields(RegionSources)}
        fixed = {key: value for key, value in asdict(self.config).items() if key not in free}
        if self.weights is None:  # some gigabytes, once
            self.weights = source_hash(self.config.pretrained_path, self.config.weights)
        return fixed | {
            "weights": self.weights,
            "precision": self.precision,
            "split": short_hash(sides),
            "fold": number,
        }

    def fold(self, number: int) -> bool:

        c = self.config
        fold = self.splits.folds[number]
        file = self.file_of(number)
        folder = self.out / "training" / f"fold{number}"
        identity = distributed.from_main(lambda: self.identity(number))
        if distributed.from_main(lambda: is_made(file, identity)):
            distributed.from_main(lambda: forget_states(folder))
            return True
        say(f"fold {number}: {len(fold.train):,} radiographs to train on")
        model, preprocessing = self.network(number)
        policy = CropPolicy(whole=c.whole, flip=c.flip, degrees=c.degrees)
        dataset = self.data(fold.train, preprocessing, policy)
        truth = self.labels(fold.val)
        plan = fold_plan(len(dataset), c.batch_size, c.epochs)
        facts = train_fold(
            model,
            RunFolder(folder, identity),
            training_recipe(c, plan.total_steps),
            plan=plan,
            larger_is_better=True,
            about=asdict(c),
            score=lambda: selection_score(self.predicted(model, preprocessing, fold.val), truth),
            batches=step_batches(
                dataset, plan, seed=c.seed, rank=distributed.rank(), num_workers=c.num_workers
            ),
            device=self.device,
            precision=self.precision,
            seed=c.seed,
            progress_bar=c.verbose,
            name_of=lambda row: str(dataset.records["image"].iloc[row]),
        )
        if facts is None:
            return False
        made = {
            side: self.predicted(model, preprocessing, rows)
            for side, rows in (("val", fold.val), ("test", self.splits.test))
        }
        likeness = self.likeness(number, model, preprocessing)
        distributed.from_main(
            lambda: self.keep(number, model, preprocessing, made, identity, facts, likeness)
        )
        distributed.from_main(lambda: forget_states(folder))
        return True

    def file_of(self, number: int) -> Path:
        """Where the predictions of a fold are."""
        return self.out / "predictions" / f"fold{number}.csv"

    def labels(self, rows):
        """[R, 38], NaN unknown."""
        return label_array(self.records.iloc[list(rows)])

    def network(self, number: int):
        """(objective on its device, preprocessing) of a fold; the same random weights whatever was made before."""
        c = self.config
        torch.manual_seed(c.seed + number)
        size = None if c.input_size is None else (c.input_size, c.input_size)
        backbone = build_backbone(
            c.pretrained_path,
            input_size=size,
            drop_path=c.drop_path,
            pool=c.pool,
            weights=c.weights,
        )
        if self.tells(number):
            say(f"{c.pretrained_path}: {backbone.report}")
        preprocessing = Preprocessing.of(backbone.preprocessing, backbone.input_size)
        model = RegionGuided(backbone, preprocessing.normalise)
        use_explicit_attention(model.to(self.device), self.device)
        return synchronised(model, self.device), preprocessing

    def batches(self, preprocessing):
        """rows -> batches of whole radiographs in their order."""
        return lambda rows: ordered_batches(
            self.data(rows, preprocessing),
            range(len(rows)),
            batch_size=64,
            num_workers=self.config.num_workers,
        )

    def predicted(self, model, preprocessing, rows):
        """Probabilities [R, 38] of whole radiographs, in the order of `rows`."""
        return predictions(
            model, list(rows), self.batches(preprocessing), self.device, self.precision
        )

    def likeness(self, number: int, model, preprocessing):
        """What tells whether a radiograph is like the training radiographs (`evaluation.statistics.likeness`)."""
        fold = self.splits.folds[number]
        patients = self.records["patient"].astype(str)
        few = fold.train[Likeness.sample(len(fold.train), self.config.seed)]
        seen = seen_and_held_out(
            model,
            look,
            few.tolist(),
            fold.val.tolist(),
            self.batches(preprocessing),
            self.device,
            self.precision,
        )
        return Likeness.fit(
            **seen, patients=patients.iloc[fold.val], training_patients=patients.iloc[few]
        )

    # results -------------------------------------------------------------------------------------------------------

    def kept_facts(self, number: int, predicted):
        """What the network's folder tells of its training; `predicted`: of the validation rows."""
        fold = self.splits.folds[number]
        learnt = self.records.iloc[fold.train]
        data = [
            told_data(part["image"], source if source in RELEASES else "")
            for source, part in learnt.groupby("source")
        ]
        patients = self.records["patient"].iloc[fold.val].tolist()
        return KeptFacts(
            joined_names(data),
            len(learnt),
            kept_group_score(predicted, self.labels(fold.val), patients),
        )

    def keep(
        self, number: int, model, preprocessing, made: dict, identity: dict, facts: dict, likeness
    ) -> None:
        """Main process: the network of the best epoch, then what it predicts."""
        c = self.config
        trained = self.kept_facts(number, made["val"])
        card = finetuned_card(
            f"Region-guided tumour classifier, fold {number}",
            f"38 labels, trained on {trained.trained_on}.",
            c.pretrained_path,
            facts | trained.rows,
            backbone_licence(c.pretrained_path),
        )
        about = {
            "labels": list(LABELS),
            "backbone": shortened(c.pretrained_path),
            "fold": number,
        } | facts
        about["training"] = trained.kept()
        about["temperatures"] = fit_group_temperatures(
            made["val"], self.labels(self.splits.folds[number].val)
        )
        save_finetuned(
            model, self.out / "models" / f"fold{number}", preprocessing.to_dict(), about, card
        )
        likeness.save(self.out / "models" / f"fold{number}" / FILE)
        truth = [f"is {label}" for label in LABELS]
        sides = []
        for side, rows in (("val", self.splits.folds[number].val), ("test", self.splits.test)):
            records = self.records.iloc[list(rows)]
            records = records.assign(**dict(zip(truth, self.labels(rows).T)))
            sides.append((side, records, made[side]))
        write_predictions(
            self.file_of(number),
            sides,
            [f"p {label}" for label in LABELS],
            ["source", *truth],
            identity,
            facts,
        )

    def conclude(self) -> None:
        """Main process: what the folds' ensemble says of the test set, once all folds are there."""
        c = self.config
        folds = []
        test = self.records.iloc[list(self.splits.test)]
        for number, fold in enumerate(self.splits.folds):
            if is_made(self.file_of(number), self.identity(number)):
                folds.append(read_predictions(self.file_of(number), self.labels(fold.val), number))
        if len(folds) < len(self.splits.folds):
            say(f"{len(folds)} of {len(self.splits.folds)} folds are made; no results yet")
            return
        truth = self.labels(self.splits.test)
        together = np.mean([fold.test for fold in folds], axis=0)
        each = [selection_score(fold.test, truth) for fold in folds]
        summary = {
            "folds": [fold.facts | {"test": score} for fold, score in zip(folds, each)],
            "ensemble": selection_score(together, truth),
            "test_radiographs": len(test),
            "notices": self.notices,
        }
        write_text(self.out / "summary.json", json.dumps(summary, indent=1) + "\n")
        patients = self.records["patient"].astype(str)
        page = RegionPage(
            title=f"Region-guided tumour classifier: {len(folds)} folds",
            lead="Folds by patient, the best epoch of each chosen on validation; all look at the same held-out whole "
            "radiographs. Research use only, not for diagnosis.",
            probabilities=together,
            labels=truth,
            patients=patients[test.index].tolist(),
            sources=test["source"].tolist(),
            names=[printable(Path(image).name) for image in test["image"]],
            picture=lambda row: self.shown(test["image"].iloc[row]),
            columns={name: test[name].tolist() for name in ("source", "center") if name in test},
            counts={
                "radiographs": f"{len(self.records):,}",
                "patients or groups": f"{patients.nunique():,}",
                "held out": f"{len(test):,}",
                "folds": str(len(folds)),
            },
            notices=[
                anonymous(notice.replace(f"{self.root}/", ""), set(patients))
                for notice in self.notices
            ],
            settings=asdict(c),
            seed=c.seed,
        )
        write_region_tables(self.out, page)
        write_region_report(self.out / "report.html", page)
        for row in page.label_rows(page.called, bones=False):
            found = row["auroc"]
            if found["value"] == found["value"]:
                say(
                    f"{row['label']}: AUROC {found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}], "
                    f"{row['positives']} of {row['known']}"
                )
        say(f"written: {self.out}")

    def shown(self, path: str):
        """A radiograph for people: uint8 [H, W], its own shape."""
        return Preprocessing(height=160, width=160).read(path)
