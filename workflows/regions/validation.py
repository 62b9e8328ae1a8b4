"""A region-guided classifier on radiographs of other centres."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from core.checks import require_finite
from core.files import check_folder, make_folder, printable
from core.progress import bar, say
from core.system.device import choose_device, prepare_device, resolve_precision
from core.tables import write_table
from core.tumour_labels import LABELS
from data.datasets.columns import counted
from data.datasets.loader import ordered_batches
from data.datasets.split_table import file_hashes, seen_in_training
from data.reading.audit import audit
from data.views.preprocessing import Preprocessing
from evaluation.pages.html import anonymous
from evaluation.pages.numbers import number
from evaluation.statistics.likeness import Joint, Likeness
from evaluation.statistics.novelty import look
from models.backbones.features import Described
from models.backbones.finetuned import (
    fold_folders,
    fold_number,
    load_finetuned,
    network_name,
    training_splits,
)
from models.weights.checkpoint import load_mae, read_json
from training.fold import predictions
from training.fold_files import check_metadata
from training.kept_facts import doubt, network_sentences, read_facts
from workflows.regions.answers.error_maps import ErrorMapper
from workflows.regions.answers.figures import Marked, case_panel
from workflows.regions.answers.page import RegionPage
from workflows.regions.answers.predictions import (
    answer_note,
    answers_elsewhere,
    prediction_columns,
    prediction_row,
    region_rows,
)
from workflows.regions.answers.report import write_region_report
from workflows.regions.answers.rule import combined_all
from workflows.regions.answers.scores import THREE_WAY
from workflows.regions.answers.tables import write_region_tables
from workflows.regions.records.records import label_array
from workflows.regions.records.sources import read_sources
from workflows.regions.records.views import (
    RegionViews,
    annotation_regions,
    around_boxes,
    sliding_regions,
    table_regions,
)


def validate(config) -> int:
    """Exit status 0."""
    check(config)

    study = Study(config)
    make_folder(config.output_dir)
    study.read()
    study.look_for_leaks()
    study.find_regions()
    study.read_others()
    views, owner = study.predict()
    answer, chosen = combined_all(views, owner, config.rule)
    page = study.page(answer, chosen, views)
    study.write_predictions(page, chosen, views)
    write_region_tables(config.output_dir, page)
    write_region_report(config.output_dir / "report.html", page)
    for warning in page.warnings:
        say(f"WARNING: {warning}")
    decided = page.results["answers"][page.called]
    area = decided["labels"][4]["auroc"]["value"]  # no tumour against any
    say(f"{len(study.records):,} radiographs, {page.called}: AUROC of any tumour {number(area)}")
    say(f"written: {config.output_dir}")
    return 0


def check(c) -> None:
    """Refuse what cannot work before anything is read."""
    check_folder(c.output_dir)
    if (c.boxes is None) != (c.regions != "csv"):
        raise ValueError(
            "--regions csv needs --boxes TABLE"
            if c.boxes is None
            else f"--boxes is for --regions csv, not {c.regions}"
        )
    if c.regions == "error_map" and c.error_map_model is None:
        raise ValueError(
            "--regions error_map needs --error_map_model, a masked autoencoder with its decoder"
        )
    for name in (
        "most_boxes",
        "peaks",
        "error_map_passes",
        "draws",
        "batch_size",
        "seed",
        "num_workers",
    ):
        least = 0 if name in ("seed", "num_workers") else 1
        if getattr(c, name) < least:
            raise ValueError(
                f"--{name} {getattr(c, name)}: expected a whole number from {least} on"
            )
    for name in ("tumour_threshold", "malignant_threshold"):
        if not 0 < getattr(c, name) < 1:
            raise ValueError(f"--{name} {getattr(c, name)}: expected more than 0 and less than 1")
    if c.regions == "sliding":
        sliding_regions((100, 100), c.window, c.overlap)


class Study:
    """One validation: networks, radiographs, regions, probabilities."""

    def __init__(self, config):

        self.config = config
        self.device = choose_device(config.device)
        prepare_device(self.device)
        self.precision = resolve_precision(config.precision, self.device)
        self.folds = fold_folders(config.model_path)
        saved = {}
        for folder in self.folds:
            file = folder / "preprocessor_config.json"
            if file.is_file():  # what is missing is told when the network is loaded
                saved[folder] = read_json(file)
        if any(one != next(iter(saved.values())) for one in saved.values()):
            raise ValueError(
                f"{config.model_path}: its folds prepare radiographs differently; give one of them"
            )
        self.network = load_network(self.folds[0])
        self.preprocessing = Preprocessing.from_dict(self.network.preprocessor)
        self.trained: list = []  # what each network tells of its training
        self.mapper = (
            None
            if config.error_map_model is None
            else error_mapper(config, self.device, self.precision)
        )
        self.warnings: list[str] = []

    def read(self) -> None:
        """The records, all of whose files can be decoded, with the sha256 of each."""
        c = self.config
        looking = {
            "cache": c.output_dir / "looks.csv",
            "workers": c.num_workers,
            "progress": bar("duplicates"),
        }
        records = read_sources(c, centers=c.centers, **looking)
        self.notices = list(records.attrs["notices"])
        has = [name for name in records.columns if name not in ("labels", "boxes", "target")]
        check_metadata(c.meta_cols, has, prediction_columns([]))
        if taken := [name for name in has if name in prediction_columns([])]:
            raise ValueError(
                f"column {taken[0]!r}: predictions.csv has a column of this name; rename it in the table"
            )
        _, bad = audit(
            records["image"],
            workers=c.num_workers,
            cache=c.output_dir / "audit.csv",
            earlier=c.audit,
            tell=say,
            progress=bar("reading files"),
        )
        if len(bad):
            first = (
                f"first {bad.iloc[0]['path']} ({bad.iloc[0]['reason']}: {bad.iloc[0]['detail']})"
            )
            if c.on_bad_image == "stop":
                raise ValueError(
                    f"{len(bad)} of {len(records)} radiographs cannot be read, {first}; mend them or use "
                    "--on_bad_image skip"
                )
            self.notices.append(
                f"{len(bad)} of {len(records)} radiographs cannot be read and are left out, {first}"
            )
            records = records[~records["image"].isin(bad["path"])]
        self.records = records.reset_index(drop=True)
        self.records.attrs.clear()
        if not len(self.records):
            raise ValueError("no radiograph is left that can be read")
        self.hashes = file_hashes(self.records, workers=c.num_workers, progress=bar("sha256"))
        for notice in self.notices:
            say(f"note: {notice}")

    def look_for_leaks(self) -> None:
        """What the training knew is refused, left out, or told on the page, by --on_leak."""
        c = self.config
        file = c.splits or training_splits(self.folds[0])
        if file is None:
            self.warnings.append(
                f"No splits.csv of the training was found beside {printable(c.model_path)}: nobody "
                "checked that these radiographs are new to it. Give --splits."
            )
            return
        numbers = (
            None
            if len(self.folds) > 1 or fold_number(self.folds[0]) is None
            else [fold_number(self.folds[0])]
        )
        leaks = seen_in_training(file, self.records, self.hashes, numbers)
        if not leaks:
            return
        row, why = leaks[0]
        told = (
            f"{len(leaks)} of {len(self.records)} radiographs were known to the training by {printable(file)}, "
            f"first {printable(self.records['image'].iloc[row])}: {why}"
        )
        if c.on_leak == "stop":
            raise ValueError(f"{told}. Results on them say nothing; --on_leak skip leaves them out")
        if c.on_leak == "keep":
            self.warnings.append(f"LEAK: {told}. The figures below are too good.")
            return
        kept = np.setdiff1d(np.arange(len(self.records)), [row for row, _ in leaks])
        if not len(kept):
            raise ValueError(f"{told}. Nothing is left to validate on")
        self.notices.append(f"{told}; they are left out")
        self.records = self.records.iloc[kept].reset_index(drop=True)
        self.hashes = [self.hashes[row] for row in kept]
        say(f"note: {self.notices[-1]}")

    def find_regions(self) -> None:
        """`self.regions`: of each radiograph, by --regions."""
        c = self.config
        records = self.records
        sizes = list(zip(records["height"].astype(int), records["width"].astype(int)))
        if c.regions == "none":
            self.regions = [[] for _ in sizes]
        elif c.regions == "sliding":
            self.regions = [sliding_regions(size, c.window, c.overlap) for size in sizes]
        elif c.regions == "annotation":
            self.regions = annotation_regions(records, c.seed)
            self.warnings.append(
                "The regions are what radiologists marked, which nobody has before a diagnosis: the "
                "figures are an upper bound. Who has no mark got the marks of another."
            )
            if not any(self.regions):
                self.notices.append(
                    "none of the radiographs has a mark: only whole images were looked at"
                )
        elif c.regions == "csv":
            self.regions, told = table_regions(
                c.boxes, records, most=c.most_boxes, left_out=c.skip_labels
            )
            self.notices += told
        else:
            self.regions = self.pointed_at()
        count = sum(map(len, self.regions))
        networks = counted(len(self.folds), "network")
        say(
            f"{len(records):,} radiographs, {count:,} regions ({c.regions}), {networks}, on {self.device}"
        )

    def pointed_at(self) -> list:
        """The peaks of each radiograph's error map as regions, a few radiographs at a time."""
        records = self.records
        mapper = self.mapper
        found = []
        wholes = RegionViews(records, [[] for _ in range(len(records))], mapper.preprocessing)
        batches = ordered_batches(
            wholes,
            range(len(wholes)),
            batch_size=mapper.together,
            num_workers=self.config.num_workers,
            title="error maps",
        )
        for batch in batches:
            part = records.iloc[len(found) : len(found) + len(batch["image"])]
            names = [Path(image).name for image in part["image"]]
            for one, hits, height, width in zip(
                *mapper.maps(names, batch["image"]), part["height"], part["width"]
            ):
                size = int(height), int(width)
                found.append(
                    around_boxes(mapper.boxes(one, hits, size, self.config.peaks), size, "peak")
                )
        return found

    def read_others(self) -> None:
        """`self.others`: name -> what another validation says of the same radiographs, [N, 38]."""
        images = [printable(image) for image in self.records["image"]]
        labels = None
        self.others = {}
        for told in self.config.against:
            name, equals, folder = told.partition("=")
            file = Path(folder if equals else told)
            file = file / "predictions.csv" if file.is_dir() else file
            name = name if equals else file.parent.name
            if not name or name in self.others or name in self.taken_names():
                raise ValueError(f"--against {told}: it needs a name of its own, NAME=FOLDER")
            labels = label_array(self.records) if labels is None else labels
            self.others[name] = answers_elsewhere(file, images, labels)

    def taken_names(self) -> list[str]:
        """What the answers of this validation are called; the first is the one that counts."""
        c = self.config
        looked = c.regions != "none" and c.rule != "whole"
        return (
            [f"{c.rule} ({c.regions.replace('_', ' ')})", "whole image"]
            if looked
            else ["whole image"]
        )

    def predict(self):
        """Mean probabilities of all views over the networks, [T, 38], and which radiograph each is of, [T]; on the way
        how like the training radiographs each radiograph is (`self.likeness`, `self.alike` [N])."""
        c = self.config
        dataset = RegionViews(self.records, self.regions, self.preprocessing)

        def batches(rows):
            return ordered_batches(
                dataset, rows, batch_size=c.batch_size, num_workers=c.num_workers, unit="view"
            )

        wholes = np.flatnonzero(dataset.region < 0)
        total = 0.0
        known = []
        features = []
        looks = []
        for folder in bar("networks", unit="network")(self.folds):
            network = self.network if folder == self.folds[0] else load_network(folder)
            model = network.model
            normalise = self.preprocessing.normalise
            if model.backbone.input_size != (self.preprocessing.height, self.preprocessing.width):
                size = f"{self.preprocessing.height} x {self.preprocessing.width}"
                raise ValueError(
                    f"{folder}: prepares radiographs at {size}, its network takes "
                    f"{model.backbone.input_size}"
                )
            model.normalise = normalise
            answers = predictions(
                model.to(self.device), range(len(dataset)), batches, self.device, self.precision
            )
            require_finite(answers, f"{folder}: probabilities")
            total = total + answers
            known.append(Likeness.of_folder(folder, model.width))
            if known[-1] is not None:
                seen = predictions(
                    Described(model, look), wholes.tolist(), batches, self.device, self.precision
                )
                features.append(seen[:, : model.width])
                looks.append(seen[:, model.width :])
            self.trained.append(read_facts(network.about))
            model.to("cpu")
        self.likeness = Joint(known)
        self.alike = (
            self.likeness.of(features, looks)
            if self.likeness.known
            else np.full(len(wholes), np.nan)
        )
        return total / len(self.folds), dataset.owner

    def tell_what_is_unlike(self) -> list[str]:
        """`yes`, `no` or `unknown` of each radiograph; warnings if some are unlike the training radiographs, and if the
        networks were no better than chance."""
        words = [self.likeness.word(value) for value in self.alike]
        if count := words.count("no"):
            self.warnings.append(
                f"{count} of {len(words)} radiographs are unlike the training radiographs: the "
                "networks know no such radiographs, and their answers mean nothing. They count in "
                f"the figures. {self.likeness.note}"
            )
        elif not self.likeness.known:
            self.warnings.append(self.likeness.note)
        if against := doubt(self.trained):
            self.warnings.append(f"{against[:1].upper()}{against[1:]}.")
        return words

    def told(self) -> list[str]:
        """Which networks answer, what trained them and how good they were."""
        several = f"the mean of {len(self.folds)} networks: " if len(self.folds) > 1 else ""
        name = network_name(
            "region-guided classifier", self.network.model.backbone, self.network.about
        )
        return network_sentences(f"{several}{name}", self.trained)

    def page(self, answer, chosen: list, views):
        """What the report and the tables are about."""
        c = self.config
        records = self.records
        owner_first = [0]
        for several in self.regions[:-1]:
            owner_first.append(owner_first[-1] + 1 + len(several))
        called, *whole = self.taken_names()
        columns = c.meta_cols or [
            name for name in ("center",) if name in records and records[name].nunique() > 1
        ]
        parts = {name: records[name].tolist() for name in columns}
        self.words = self.tell_what_is_unlike()
        if len(set(self.words)) > 1:
            parts["like the training"] = self.words
        return RegionPage(
            title="Region-guided tumour classifier: validation",
            lead=f"{' '.join(self.told())} Asked about radiographs from "
            f"{', '.join(dict.fromkeys(records['source']))}. Research use only, not for diagnosis.",
            probabilities=answer,
            labels=label_array(records),
            called=called,
            variants={name: views[owner_first] for name in whole} | self.others,
            patients=records["patient"].astype(str).tolist(),
            sources=records["source"].tolist(),
            names=[printable(Path(image).name) for image in records["image"]],
            picture=lambda row: Preprocessing().read(records["image"].iloc[row]),
            panel=lambda row: self.panel(row, answer[row], chosen[row]),
            columns=parts,
            counts={
                "radiographs": f"{len(records):,}",
                "patients or groups": f"{records['patient'].nunique():,}",
                "sources": str(records["source"].nunique()),
                "regions": f"{sum(map(len, self.regions)):,}",
                "networks": str(len(self.folds)),
            },
            warnings=self.warnings,
            notices=[anonymous(notice, set(records["patient"])) for notice in self.notices],
            settings=asdict(c),
            intermediate=c.intermediate,
            tumour_threshold=c.tumour_threshold,
            malignant_threshold=c.malignant_threshold,
            seed=c.seed,
            draws=c.draws,
        )

    def panel(self, row: int, probabilities, views: dict):
        """The picture of a radiograph with what was looked at."""
        record = self.records.iloc[row]
        several = self.regions[row]
        error_map = None
        if self.mapper:
            pixels = self.mapper.preprocessing.read(record["image"])
            error_map = self.mapper.of_radiograph(Path(record["image"]).name, pixels)[0]
        height = int(record["height"])
        width = int(record["width"])
        decisive = {views["tumour"], views["fracture"]}
        marked = [
            Marked(
                region.name,
                (
                    region.box[0] / width,
                    region.box[1] / height,
                    region.box[2] / width,
                    region.box[3] / height,
                ),
                number in decisive,
            )
            for number, region in enumerate(several, 1)
        ]
        return case_panel(
            Preprocessing().read(record["image"]),
            probabilities,
            name=printable(Path(record["image"]).name),
            note=f"What the answer rests on: {answer_note(views, [one[:2] for one in several])}",
            labels=label_array(self.records.iloc[[row]])[0],
            regions=marked,
            error_map=error_map,
            alarm=True,
            warning=self.likeness.sentence(self.alike[row]) if self.words[row] == "no" else "",
        )

    def write_predictions(self, page, chosen: list, views) -> None:
        """predictions.csv and regions.csv."""
        records = self.records
        decisions = page.three_way(page.probabilities).decision
        facts = [
            name
            for name in records.columns
            if name not in ("labels", "boxes", "target", "height", "width")
        ]
        sizes = list(zip(records["height"].astype(int), records["width"].astype(int)))
        looked = [[(region.name, region.box) for region in several] for several in self.regions]
        rows = []
        told = " ".join(self.told())
        for row, record in enumerate(records[facts].to_dict("records")):
            record["image"] = printable(record["image"])
            rows.append(
                prediction_row(
                    record,
                    sizes[row],
                    page.probabilities[row],
                    chosen[row],
                    looked[row],
                    THREE_WAY[decisions[row]],
                    page.labels[row],
                    like_training=self.words[row],
                    likeness=float(self.alike[row]),
                    networks=told,
                )
            )
        out = self.config.output_dir
        write_table(out / "predictions.csv", prediction_columns(facts), rows)
        images = [printable(image) for image in records["image"]]
        columns = ["image", "view", "name", "box", *(f"p_{name}" for name in LABELS)]
        write_table(out / "regions.csv", columns, region_rows(images, sizes, looked, views))


def error_mapper(config, device, precision: str):
    """The masked autoencoder that points at regions."""
    loaded = load_mae(config.error_map_model, weights=config.weights)
    preprocessing = Preprocessing.of(loaded.preprocessor, loaded.model.input_size)
    return ErrorMapper(
        loaded.model,
        preprocessing,
        device,
        precision=precision,
        passes=config.error_map_passes,
        seed=config.seed,
        batch_size=config.batch_size,
    )


def load_network(folder: Path):
    """A fine-tuned region-guided network."""
    return load_finetuned(folder, "region-guided")
