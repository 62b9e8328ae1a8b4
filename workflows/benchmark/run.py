"""Backbones compared by cross-validation."""

import dataclasses
import functools
import hashlib
import inspect
import json
import pathlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from core.checks import check_batch, check_numbers
from core.files import printable, short_hash
from core.output_folder import output_stems
from core.progress import bar, say
from core.system import distributed
from core.system.device import use_explicit_attention
from core.text import middle, percent, shortened
from data.datasets.columns import counted
from data.datasets.dataset import RadiographDataset
from data.datasets.kept_radiographs import KeptRadiographs
from data.datasets.loader import ordered_batches, step_batches
from data.datasets.split_table import joined_splits
from data.datasets.splits import (
    few_shots,
    grouped_splits,
    label_subset,
    official_splits,
    rotating_splits,
)
from data.reading.audit import readable_records
from data.reading.manifest import name_below
from data.releases.registry import BENCHMARK
from data.views.augmentation import RotateFlipJitter
from data.views.preprocessing import Preprocessing
from evaluation.pages.html import anonymous
from evaluation.pages.pictures import contact_sheet, save_figure
from evaluation.statistics.likeness import FILE, Likeness
from evaluation.statistics.metrics import MAIN, score
from evaluation.statistics.novelty import look
from evaluation.statistics.probes import chosen_linear_probe, chosen_neighbour_probe, few_shot_probe
from evaluation.statistics.trivial_answers import kept_score
from models.backbones.backbone import build_backbone
from models.backbones.card import backbone_licence, finetuned_card
from models.backbones.features import cached_features, seen_and_held_out
from models.backbones.finetuned import save_finetuned
from models.backbones.names import find, named_backbones, source_hash
from models.networks.batch_norm import synchronised
from models.networks.supervised import Supervised, balanced_weights, sex_covariate
from phantoms.layouts.files import told_data
from training.cross_validation import CrossValidation
from training.fold import RECIPE, fold_plan, forget_states, predictions, train_fold
from training.fold_files import (
    PREDICTION_COLUMNS,
    check_metadata,
    is_made,
    read_predictions,
    write_predictions,
)
from training.kept_facts import KeptFacts
from training.run import RunFolder
from training.sampling import sample_generator
from workflows.benchmark.files import make_study, write_comparisons, write_study
from workflows.benchmark.page import BenchmarkPage, Side
from workflows.benchmark.report import write_benchmark_report
from workflows.benchmark.study import TestSet

CHOSEN = {
    "finetune": "the best epoch chosen on validation",
    "linear": "the penalty of the linear model chosen on validation",
    "knn": "the number of neighbours chosen on validation",
    "fewshot": "a linear model with fixed settings, so that no labels but the shots decide",
}
FOLDERS = ("predictions", "ckpts", "features")  # of the results, beside those of the backbones


def compare_backbones(config) -> int:
    """Exit status: 0 finished, 143 stopped by a signal with everything saved."""
    with distributed.job(config.device) as device:
        return Benchmark(config, device).run()


class Benchmark(CrossValidation):
    """One data set, several backbones."""

    out_flag = "--outdir"

    def __init__(self, config, device):
        super().__init__(config, device, config.outdir / config.data, say)
        self.kept: dict = {}  # radiographs in memory, by geometry
        self.sources: dict = {}  # what each backbone is made of
        self.backbones: dict[str, str] = {}  # backbone -> what it is called
        self.unreadable = 0

    # data ----------------------------------------------------------------------------------------------------------

    def check_flags(self) -> None:
        """Refuse what cannot work before thousands of files are read."""
        c = self.config
        if (c.csv is None) == (c.data == "csv"):
            raise ValueError(
                "--data csv needs --csv TABLE"
                if c.csv is None
                else f"--csv is for --data csv, not {c.data}"
            )
        if c.use_sex and (c.data != "boneage" or c.protocol == "knn"):
            raise ValueError(
                f"--use_sex is for --data boneage and not for --protocol knn; here {c.data}, {c.protocol}"
            )
        if c.sampler == "balanced" and c.protocol != "finetune":
            raise ValueError(
                f"--sampler balanced is for --protocol finetune; for {c.protocol} use --class_weight balanced"
            )
        if c.protocol == "fewshot":
            if c.label_fraction != [1.0] or c.class_weight != "none":
                raise ValueError(
                    "--protocol fewshot learns from --shots of each class: it takes no --label_fraction "
                    "and no --class_weight"
                )
            if not c.shots or min(c.shots) < 1 or len(set(c.shots)) < len(c.shots):
                raise ValueError(
                    f"--shots {' '.join(map(str, c.shots))}: expected different whole numbers from 1 on"
                )
        if c.cv < 2:
            raise ValueError(f"--cv {c.cv}: cross-validation needs at least 2 folds")
        if not 0 <= c.test_split < 1:
            raise ValueError(
                f"--test_split {c.test_split}: expected a fraction below 1, or 0 for no common test set"
            )
        if c.test_split == 0 and c.split == "official":
            raise ValueError("--test_split 0 is for --split random; the release has a test set")
        if c.test_split == 0 and c.cv < 3 and c.splits is None:
            raise ValueError(
                f"--test_split 0 with --cv {c.cv}: at least 3 folds are needed, because each fold is tested on one "
                "part, validated on another and trained on the others"
            )
        check_batch(c, "bs", distributed.world_size())
        check_numbers(c, ("epochs", "lr", "layer_decay", "input_size"), above=True)
        check_numbers(c, ("weight_decay", "warmup_epochs", "num_workers", "cache_gb", "seed"))
        if not c.label_fraction or not all(0 < f <= 1 for f in c.label_fraction):
            told = " ".join(map(str, c.label_fraction))
            raise ValueError(f"--label_fraction {told}: expected fractions above 0, at most 1")
        try:
            self.backbones = named_backbones(c.backbones)
        except ValueError as error:
            raise ValueError(f"--backbones {error}") from None
        if taken := [stem for stem in self.names.values() if stem.casefold() in FOLDERS]:
            raise ValueError(
                f"--backbones: {taken[0]!r} is the name of another folder of the results; call the backbone otherwise "
                "(NAME=BACKBONE)"
            )

    def check_weights(self) -> None:

        for name in self.backbones:
            find(name)

    @functools.cached_property
    def names(self) -> dict[str, str]:
        """The name of each backbone's folder."""
        plain = [
            name.replace(":", "-").strip("./").replace("/", "_") for name in self.backbones.values()
        ]
        stems = output_stems([pathlib.PurePath(name + ".x") for name in sorted(plain)], ("",))
        by_plain = {plain: str(stem) for plain, stem in zip(sorted(plain), stems)}
        return {backbone: by_plain[short] for backbone, short in zip(self.backbones, plain)}

    @property
    def subject(self) -> str:
        """What is learned from which data, for titles."""
        c = self.config
        return c.data if c.csv is None else f"{c.target_col} in {c.csv.name}"

    def read(self):
        """Main process: (records, task, notices, root); every file is read once."""
        c = self.config
        kind = BENCHMARK[self.config.data]
        looking = {
            "cache": self.out / "looks.csv",
            "workers": c.num_workers,
            "progress": bar("looking for duplicates"),
        }
        looking |= {} if c.group_distance is None else {"distance": c.group_distance}
        missing = {"keep_missing": c.on_bad_image == "skip"}  # the audit tells of them
        if c.data == "csv":
            root = c.data_root
            records = kind.read(
                root,
                csv=c.csv,
                image_col=c.image_col,
                target_col=c.target_col,
                unit=c.unit,
                patient_col=c.patient_col,
                task=c.task,
                **missing,
                **({} if c.patient_col else looking),
            )
            root = root or c.csv.parent
        else:
            root = c.data_root or Path("data") / kind.folder
            if not root.is_dir():
                raise FileNotFoundError(
                    f"--data {c.data}: no folder {root}; the README says where to get the data and "
                    "the tree to put it in; --data_root if it is elsewhere"
                )
            takes = inspect.signature(kind.read).parameters
            if c.group_distance is not None and "looking" not in takes:
                raise ValueError(f"--group_distance: the patients of {c.data} are known")
            records = kind.read(
                root,
                **(looking if "looking" in takes else {}),
                **(missing if "keep_missing" in takes else {}),
            )
        notices = list(records.attrs.get("notices", []))
        task = records.attrs.get("task", kind.task)
        check_metadata(
            c.meta_cols, list(records.columns), [*PREDICTION_COLUMNS, *self.prediction_names(task)]
        )
        if task.kind == "regression" and "balanced" in (c.class_weight, c.sampler):
            flags = (
                "--class_weight balanced" if c.class_weight == "balanced" else "--sampler balanced"
            )
            raise ValueError(f"{flags}: {c.data} is a regression and has no classes")
        records, told, self.unreadable = readable_records(
            records,
            self.out / "quarantine.csv",
            on_bad=c.on_bad_image,
            cache=self.out / "audit.csv",
            earlier=c.audit,
            tell=say,
            workers=c.num_workers,
            progress=bar("reading files"),
        )
        notices += told
        if c.use_sex:
            records = records.assign(sex_number=sex_covariate(records["sex"]))
        records.attrs.clear()
        return records, task, notices, root

    def make_splits(self):
        """ValueError if OUTDIR holds results of another split."""
        c = self.config
        official = self.config.split == "official"
        if official and c.splits is None and "official" not in self.records:
            raise ValueError(f"--split official: the release of {c.data} has no split")

        def made(records):
            if official:
                return official_splits(records, self.task, folds=c.cv, seed=c.seed)
            if c.test_split == 0:
                return rotating_splits(records, self.task, folds=c.cv, seed=c.seed)
            return grouped_splits(
                records, self.task, folds=c.cv, test_fraction=c.test_split, seed=c.seed
            )

        return joined_splits(
            self.records,
            self.root,
            self.out / "splits.csv",
            made,
            given=c.splits,
            crossing=official,
            pooled=True,
            final=(self.out / "predictions").exists(),
            workers=c.num_workers,
            progress=bar("sha256"),
        )

    def sizes(self) -> str:

        fold = self.splits.folds[0]
        test = self.splits.test_of(0)
        patients = self.records["patient"].nunique()
        parts = f"{len(self.splits.folds)} folds of about {len(fold.train):,} + {len(fold.val):,}"
        if self.splits.pooled:
            parts += f" and {len(test):,} to test on"
        else:
            parts = f"{len(test):,} held out, {parts}"
        return (
            f"{self.subject}: {len(self.records):,} radiographs, {patients:,} patients or groups; {parts}; "
            f"{counted(len(self.backbones), 'backbone')}, {self.config.protocol}, on {self.device}"
        )

    # one fold ------------------------------------------------------------------------------------------------------

    def rounds(self) -> list[tuple[float, str]]:
        return [(labels, backbone) for labels in self.amounts() for backbone in self.backbones]

    def amounts(self) -> list[float]:
        """How many labels: shares of the training patients, or shots."""
        return (
            self.config.shots if self.config.protocol == "fewshot" else self.config.label_fraction
        )

    def study(self, backbone: str, labels: float) -> str:
        """The name of a column of results: backbone, protocol and how many labels."""
        name = self.names[backbone]
        name += "" if self.config.protocol == "finetune" else f"-{self.config.protocol}"
        return name + ("" if labels == 1 and self.config.protocol != "fewshot" else f"-{labels:g}")

    def fold(self, labels: float, backbone: str, number: int) -> bool:

        study = self.study(backbone, labels)
        identity = distributed.from_main(lambda: self.identity(backbone, labels, number))
        file = self.file_of(study, number)
        training = self.out / study / f"fold{number}"
        if distributed.from_main(lambda: is_made(file, identity)):
            distributed.from_main(lambda: forget_states(training))
            return True
        train = self.few(number, labels)
        say(f"{middle(study)}, fold {number}: {len(train):,} radiographs to train on")
        make = self.finetuned if self.config.protocol == "finetune" else self.probed
        made = make(backbone, number, train, self.splits.folds[number].val, training, identity)
        if made == "stopped":
            return False
        distributed.from_main(lambda: self.write_predictions(file, number, made, identity))
        distributed.from_main(lambda: forget_states(training))
        return True

    def more_notices(self) -> list[str]:
        """Notices of classes that have fewer training radiographs than shots are asked for."""
        c = self.config
        target = self.records["target"].to_numpy(float)
        if c.protocol != "fewshot":
            return []
        trains = [target[fold.train] for fold in self.splits.folds]
        if self.task.kind == "regression":
            least = {"the data": min(map(len, trains))}
        else:
            names = self.task.classes or ("0", "1")
            least = {
                f"class {name!r}": min(int((one == label).sum()) for one in trains)
                for label, name in enumerate(names)
            }
        return [
            f"{name} has {count} training radiographs in a fold: it gives all for more shots"
            for name, count in least.items()
            if count < max(c.shots)
        ]

    def file_of(self, study: str, number: int) -> Path:
        """Where the predictions of a fold are."""
        return self.out / "predictions" / study / f"fold{number}.csv"

    def few(self, number: int, labels: float):
        """The rows that fold `number` learns from."""
        rows = self.splits.folds[number].train
        seed = self.config.seed
        if self.config.protocol == "fewshot":
            return few_shots(self.records, self.task, rows, labels, seed=f"{seed}/{number}")
        return label_subset(self.records, self.task, rows, labels, seed=seed)

    def identity(self, backbone: str, labels: float, number: int) -> dict:
        """What decides the predictions of a fold: flags, content of files, targets, weights and what its alias says."""
        fold = self.splits.folds[number]
        columns = ["target", *(["sex"] if self.config.use_sex else [])]
        sides = [
            [
                (self.hashes[row], *map(str, facts))
                for row, facts in zip(rows, self.records[columns].values[rows])
            ]
            for rows in (fold.train, fold.val, self.splits.test_of(number))
        ]
        if backbone not in self.sources:
            self.sources[backbone] = source_hash(backbone, self.config.weights)
        return self.fixed() | {
            "backbone": backbone,
            "weights": self.sources[backbone],
            "labels": labels,
            "precision": self.precision,
            "split": short_hash(sides),
            "fold": number,
        }

    def fixed(self) -> dict:
        """The flags that decide predictions."""
        free = {
            "backbones",
            "data_root",
            "outdir",
            "num_workers",
            "splits",
            "fold",
            "meta_cols",
            "on_bad_image",
            "cache_gb",
            "device",
            "verbose",
            "specificity",
            "label_fraction",
            "shots",
            "cv",
            "test_split",
            "split",
            "csv",
            "image_col",
            "target_col",
            "patient_col",
            "audit",
        }
        return {key: value for key, value in asdict(self.config).items() if key not in free}

    def prepared(self, backbone: str, number: int):
        """(backbone, preprocessing, its recipe over the flags); the same random weights in any order of backbones."""
        c = self.config
        torch.manual_seed(hash_of(c.seed, backbone, number))
        size = None if c.input_size is None else (c.input_size, c.input_size)
        own = find(backbone).alias
        drop_path = (
            (own.recipe if own else {}).get("drop_path", c.drop_path)
            if c.protocol == "finetune"
            else 0.0
        )
        network = build_backbone(
            backbone, input_size=size, drop_path=drop_path, pool=c.pool, weights=c.weights
        )
        preprocessing = Preprocessing.of(network.preprocessing, network.input_size)
        recipe = {name: getattr(c, name) for name in RECIPE} | network.recipe
        if self.tells(number):
            name = middle(self.backbones[backbone])
            say(f"{name}: {network.report}")
            if network.recipe and c.protocol == "finetune":
                told = ", ".join(f"{name} {value:g}" for name, value in network.recipe.items())
                say(f"{name}: its own recipe in configs/backbones.yaml: {told}")
        return network, preprocessing, recipe

    def data(self, rows, preprocessing, transform=None):
        """The labelled data set of some rows, its radiographs from memory."""
        plain = dataclasses.replace(preprocessing, mean=(0, 0, 0), std=(1, 1, 1))
        key = repr(plain)
        if key not in self.kept:
            self.kept.clear()  # of another geometry: memory has its limit
            kept = KeptRadiographs(
                self.records["image"].tolist(), preprocessing, self.config.cache_gb
            )
            self.kept[key] = kept.fill(self.config.num_workers)
            for note in kept.notes:
                say(f"note: {note}")
        extra = ("sex_number",) if self.config.use_sex else ()
        return RadiographDataset(
            self.records.iloc[rows],
            preprocessing,
            transform,
            seed=self.config.seed,
            keep=self.kept[key],
            extra=extra,
        )

    def finetuned(self, backbone: str, number: int, train, val, training: Path, identity: dict):
        """All weights are trained, in the run folder `training`; returns {"val", "test", "facts"} or "stopped"."""
        c = self.config
        task = self.task
        network, preprocessing, recipe = self.prepared(backbone, number)
        target = self.records["target"].to_numpy(float)[train]
        spread = (target.mean(), target.std() or 1.0) if task.kind == "regression" else (0.0, 1.0)
        weights = shares = None
        if "balanced" in (c.class_weight, c.sampler):
            each_class = balanced_weights(target.tolist(), max(task.outputs, 2))
            weights = each_class if c.class_weight == "balanced" else None
            shares = np.take(each_class, target.astype(int)) if c.sampler == "balanced" else None
        model = Supervised(
            network,
            task.kind,
            task.outputs,
            preprocessing.normalise,
            *spread,
            class_weights=weights,
            covariates=int(c.use_sex),
        )
        use_explicit_attention(model.to(self.device), self.device)
        model = synchronised(model, self.device)
        dataset = self.data(train, preprocessing, RotateFlipJitter(preprocessing))
        plan = fold_plan(len(train), c.bs, recipe["epochs"])
        truth = self.records["target"].to_numpy(float)[val]
        facts = train_fold(
            model,
            RunFolder(training, identity),
            recipe,
            plan=plan,
            score=lambda: score(task.kind, truth, self.predicted(model, preprocessing, val)),
            larger_is_better=task.kind != "regression",
            about=asdict(c) | {"backbone": backbone, "recipe": recipe},
            batches=step_batches(
                dataset,
                plan,
                seed=c.seed,
                rank=distributed.rank(),
                num_workers=c.num_workers,
                shares=shares,
            ),
            device=self.device,
            precision=self.precision,
            seed=c.seed,
            progress_bar=c.verbose,
            batch_flag="--bs",
            name_of=lambda row: str(dataset.records["image"].iloc[row]),
        )
        if facts is None:
            return "stopped"
        made = {
            "val": self.predicted(model, preprocessing, val),
            "test": self.predicted(model, preprocessing, self.splits.test_of(number)),
            "facts": facts,
        }
        kept = self.out / "ckpts" / training.parent.name / training.name
        likeness = self.likeness(model, preprocessing, train, val)
        trained = self.kept_facts(train, val, made["val"])
        facts = facts | self.own_score(number, made["test"])
        distributed.from_main(
            lambda: self.keep(model, preprocessing, kept, backbone, facts, trained, likeness)
        )
        return made

    def own_score(self, number: int, predicted) -> dict:
        """Where each fold tests on rows of its own: what its network scores there, for the card of the network."""
        if not self.splits.pooled:
            return {}
        rows = self.splits.test_of(number)
        found = score(self.task.kind, self.records["target"].to_numpy(float)[rows], predicted)
        return {f"test_{MAIN[self.task.kind]}": found, "test_radiographs": len(rows)}

    def likeness(self, model, preprocessing, train, val):
        """What tells whether a radiograph is like the training radiographs (`evaluation.statistics.likeness`)."""

        def batches(rows):
            return ordered_batches(self.data(rows, preprocessing), range(len(rows)), batch_size=64)

        few = train[Likeness.sample(len(train), self.config.seed)]
        patients = self.records["patient"].astype(str)
        seen = seen_and_held_out(
            model, look, few.tolist(), val.tolist(), batches, self.device, self.precision
        )
        return Likeness.fit(
            **seen, patients=patients.iloc[val], training_patients=patients.iloc[few]
        )

    def kept_facts(self, train, val, predicted):
        """What the network's folder tells of its training; `predicted`: of the validation rows."""
        target = self.records["target"].to_numpy(float)
        unit = self.task.unit
        data = told_data(
            self.records["image"].iloc[train],
            "" if self.config.csv is not None else self.config.data,
        )
        constant = f"one {'age' if self.config.data == 'boneage' else 'value'} for all"
        patients = self.records["patient"].iloc[val].tolist()
        return KeptFacts(
            data,
            len(train),
            kept_score(
                self.task.kind,
                target[val],
                predicted,
                patients,
                target[train],
                unit=unit,
                constant=constant,
            ),
        )

    def keep(
        self, model, preprocessing, folder: Path, backbone: str, facts: dict, trained, likeness
    ) -> None:
        """Main process: the network of the best epoch, for `models.backbones.finetuned.load_finetuned`."""
        c = self.config
        task = self.task
        if c.csv is None:
            subject = c.data
            told = f"Fine-tuned on {c.data} ({task.kind}); see its data card in data/."
        else:  # a card names no files
            subject = c.target_col
            told = f"Fine-tuned on a table of radiographs ({task.kind}: {c.target_col})."
        card = finetuned_card(
            f"{subject}, {folder.name}",
            told,
            backbone,
            facts | trained.rows,
            backbone_licence(backbone),
        )
        about = {
            "data": self.config.data,
            "classes": list(task.classes),
            "unit": task.unit,
            "backbone": shortened(backbone),
            "training": trained.kept(),
        }
        save_finetuned(model, folder, preprocessing.to_dict(), about | facts, card)
        likeness.save(folder / FILE)

    def predicted(self, model, preprocessing, rows):
        """Probabilities or values of some rows, in their order."""

        def batches(some):
            return ordered_batches(self.data(some, preprocessing), range(len(some)), batch_size=64)

        return predictions(
            model, rows.tolist(), batches, self.device, self.precision, ("image", "extra")
        )

    def probed(self, backbone: str, number: int, train, val, training: Path, identity: dict):
        """Frozen features, and a model on them whose settings are chosen on the validation rows (few shots: fixed)."""
        c = self.config
        kind = self.task.kind
        outputs = self.task.outputs
        features = distributed.from_main(lambda: self.features(backbone))
        if c.use_sex:
            features = np.column_stack([features, self.records["sex_number"].to_numpy(np.float32)])
        target = self.records["target"].to_numpy(float)
        if c.protocol == "fewshot":
            unlabelled = features[self.splits.folds[number].train]
            predict = few_shot_probe(kind, features[train], target[train], unlabelled, outputs)
            facts = {}
        else:
            probe = chosen_linear_probe if c.protocol == "linear" else chosen_neighbour_probe
            predict, facts = probe(
                kind,
                features[train],
                target[train],
                features[val],
                target[val],
                outputs,
                balanced=c.class_weight == "balanced",
            )
        facts = {"radiographs": len(train)} | facts
        return {
            "val": predict(features[val]),
            "test": predict(features[self.splits.test_of(number)]),
            "facts": facts,
        }

    def features(self, backbone: str):
        """Main process: [R, D] of all records, computed once per backbone and kept on disk."""
        if getattr(self, "last_features", (None,))[0] == backbone:
            return self.last_features[1]
        network, preprocessing, _ = self.prepared(backbone, 0)
        dataset = self.data(range(len(self.records)), preprocessing)
        found = cached_features(
            network.to(self.device),
            self.records["image"].tolist(),
            lambda rows: (
                batch["image"]
                for batch in ordered_batches(dataset, rows, batch_size=64, title="features")
            ),
            folder=self.out / "features",
            preprocessing=preprocessing.to_dict(),
            normalise=preprocessing.normalise,
            device=self.device,
            precision=self.precision,
        )
        for note in found.notes:
            say(f"note: {note}")
        self.last_features = (backbone, found.values)
        return found.values

    # results -------------------------------------------------------------------------------------------------------

    def prediction_names(self, task) -> list[str]:
        """The columns of predictions in foldK.csv."""
        if task.kind == "multiclass":
            return [f"p_{name}" for name in task.classes]
        return ["predicted" if task.kind == "regression" else "probability"]

    def write_predictions(self, file: Path, number: int, made: dict, identity: dict) -> None:
        """Main process: predictions/STUDY/foldK.csv and .json."""
        names = self.prediction_names(self.task)
        sides = [
            ("val", self.records.iloc[self.splits.folds[number].val], made["val"]),
            ("test", self.records.iloc[self.splits.test_of(number)], made["test"]),
        ]
        write_predictions(file, sides, names, self.config.meta_cols, identity, made["facts"])

    def conclude(self) -> None:
        """Main process: folds, summaries and comparisons of all studies whose folds are all there."""
        c = self.config
        rows = self.splits.test
        tested = self.records.iloc[rows]
        test = TestSet(
            self.task.kind,
            tested["target"].to_numpy(float),
            tested["patient"].tolist(),
            classes=self.task.classes,
            studies=tested["study"].tolist() if self.task.by_study else None,
            ordinal=self.task.ordinal,
            specificity=c.specificity,
            seed=c.seed,
            single=c.protocol == "fewshot",
            pooled=self.splits.pooled,
        )
        studies = []
        for labels in self.amounts():
            for backbone in self.backbones:
                name = self.study(backbone, labels)
                folds = self.folds_made(backbone, labels)
                if len(folds) < len(self.splits.folds):
                    say(
                        f"{middle(name)}: {len(folds)} of {len(self.splits.folds)} folds are made; no summary yet"
                    )
                    continue
                studies.append(make_study(name, self.backbones[backbone], labels, folds, test))
                task = c.data if c.csv is None else f"{c.csv.stem}:{c.target_col}"
                about = {
                    "data": c.data,
                    "source": backbone,
                    "task": task,
                    "unit": self.task.unit,
                    "protocol": c.protocol,
                    "labels": labels,
                    "test_radiographs": len(rows),
                    "notices": self.notices,
                    "weights": self.sources[backbone],
                    "settings": self.fixed() | {"precision": self.precision},
                }
                write_study(self.out, studies[-1], test, about, tested[c.meta_cols], say)
        sizes = {labels: len(self.few(0, labels)) for labels in self.amounts()}
        compared = write_comparisons(
            self.out, studies, test, sizes, len(self.splits.folds[0].train)
        )
        if studies:
            self.write_report(test, studies, compared)
        say(f"written: {self.out}")

    def folds_made(self, backbone: str, labels: float) -> list:
        """The folds of a study, as many as there are in a row."""
        folds = []
        target = self.records["target"].to_numpy(float)
        for number, fold in enumerate(self.splits.folds):
            file = self.file_of(self.study(backbone, labels), number)
            if not is_made(file, self.identity(backbone, labels, number)):
                break
            rows = None if fold.test is None else np.searchsorted(self.splits.test, fold.test)
            folds.append(read_predictions(file, target[fold.val], number, rows))
        return folds

    def write_report(self, test, studies: list, compared: list) -> None:
        """Main process: report.html, and augmentation.png where there was some."""
        c = self.config
        records = self.records
        rows = self.splits.test
        target = records["target"].to_numpy(float)
        patients = records["patient"].astype(str).to_numpy()
        pooled = self.splits.pooled
        sides = [] if pooled else [("test", rows)]
        shots = c.protocol == "fewshot"
        parts = {
            labels: f"shots: {labels}" if shots else percent(labels, "g")
            for labels in self.amounts()
            if shots or labels < 1
        }
        for number, fold in enumerate(self.splits.folds):
            few = [
                (f"fold {number}: train, {name}", self.few(number, labels))
                for labels, name in parts.items()
            ]
            sides += [
                (f"fold {number}: train", fold.train),
                *few,
                (f"fold {number}: validation", fold.val),
            ]
            sides += [(f"fold {number}: test", fold.test)] if pooled else []
        used = np.unique(np.concatenate([rows for _, rows in sides]))
        augmented = self.augmented(studies)
        if augmented:
            views = [view for several in augmented.values() for view in several]
            save_figure(
                contact_sheet(views, columns=4, title=f"Augmentation: {self.subject}"),
                self.out / "augmentation.png",
            )
        file = self.out / "report.html"
        scored = "every fold scores the same held-out test set once."
        if pooled:
            scored = "each fold is tested on a part of its own, and the predictions of all folds are pooled."
        backbones = counted(len({study.backbone for study in studies}), "backbone")
        write_benchmark_report(
            file,
            BenchmarkPage(
                title=f"{self.subject}: {backbones}, {c.protocol}",
                lead=f"{len(self.splits.folds)} {'folds' if len(self.splits.folds) > 1 else 'fold'} "
                f"{'by patient' if c.split == 'random' else 'of the official split'}; "
                f"{CHOSEN[c.protocol]}; {scored} Not for diagnosis.",
                test=test,
                studies=studies,
                comparisons=compared,
                random_starts={
                    name
                    for backbone, name in self.backbones.items()
                    if backbone.startswith("none:")
                },
                files=[
                    printable(name_below(Path(path), str(self.root))[2:])
                    for path in records["image"].iloc[rows]
                ],
                picture=lambda number: self.shown(records["image"].iloc[rows[number]]),
                sides=[Side(name, target[rows], patients[rows].tolist()) for name, rows in sides],
                counts={
                    "radiographs": f"{len(used):,}",
                    "patients or groups": f"{len(set(patients[used])):,}",
                    "tested once" if pooled else "held out": f"{len(rows):,}",
                    "folds": str(len(self.splits.folds)),
                    "unreadable, left out": f"{self.unreadable:,}",
                },
                notices=[
                    anonymous(notice.replace(f"{self.root}/", ""), set(patients))
                    for notice in self.notices
                ],
                augmented=augmented,
                settings=asdict(c),
                unit=self.task.unit,
            ),
        )

    def shown(self, path: str):
        """A radiograph for people: uint8 [H, W], its own shape."""
        return Preprocessing(height=160, width=160).read(path)

    def augmented(self, studies: list) -> dict:
        """Words -> what the first network of fold 0 was trained on: views of one radiograph, and of four others."""
        if self.config.protocol != "finetune":
            return {}
        first = studies[0]
        file = self.out / "ckpts" / first.name / "fold0" / "preprocessor_config.json"
        if not file.exists():
            say(f"note: {file} is gone; the page shows no augmentation")
            return {}
        preprocessing = Preprocessing.from_dict(json.loads(file.read_text(encoding="utf-8")))
        change = RotateFlipJitter(preprocessing)
        train = self.few(0, first.labels)

        def views(place: int, count: int) -> list:
            """What the first epochs saw of a row."""
            scaled = preprocessing.read(self.records["image"].iloc[train[place]])
            made = [
                change(scaled, sample_generator(self.config.seed, epoch, place))
                for epoch in range(count)
            ]
            return [
                view if view.dtype == np.uint8 else (view * 255 + 0.5).astype(np.uint8)
                for view in made
            ]

        others = [view for place in range(1, min(5, len(train))) for view in views(place, 1)]
        return {"views of one training radiograph": views(0, 8), "of others": others}


def hash_of(*values) -> int:
    """A seed from values."""
    return int.from_bytes(hashlib.sha256(repr(values).encode()).digest()[:4], "little")
