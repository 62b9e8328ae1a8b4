"""Bone ages of radiographs."""

import dataclasses
import math
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from core.files import check_folder, lock_folder, make_folder, printable
from core.progress import say, warn
from core.system.device import autocast, choose_device, prepare_device, resolve_precision
from core.tables import write_table
from core.text import percent
from data.datasets.loader import ordered_batches
from data.reading.radiograph import passed_over_message
from data.views.preprocessing import Preprocessing
from evaluation.statistics.likeness import FILE, Joint
from models.backbones.features import weights_hash
from models.backbones.finetuned import network_name
from models.backbones.published_bone_age import load_bone_age, load_bone_ages
from models.networks.bone_age import sex_code
from models.networks.bone_age_saliency import month_maps
from training.kept_facts import doubt, network_sentences, read_facts
from workflows.bone_age.age_spread import AgeSpread
from workflows.bone_age.case_page import case_picture, write_bone_age_page
from workflows.bone_age.checks import DESCRIPTION, FACTS, describe, picture_warnings, range_warning
from workflows.bone_age.folds import together
from workflows.bone_age.inputs import BoneAgeInputs, add_patient_tags, read_inputs
from workflows.bone_age.reference import BoneAgeReference
from workflows.bone_age.report import (
    BoneAgePage,
    score_text,
    write_bone_age_report,
    write_bone_age_tables,
)
from workflows.bone_age.result import BoneAgeResult, write_predictions

CONTENT = (
    "predictions.csv",
    "index.html",
    "failed.csv",
    "report.html",
    "scores.csv",
    "subgroups.csv",
    "comparisons.csv",
)


def predict_ages(config) -> int:
    """Exit status: 0, or 3 if some radiographs could not be read."""
    check(config)

    if config.output_dir is not None:
        check_folder(config.output_dir)
    records, lost = inputs(config)
    if not len(records):
        raise ValueError(
            f"none of the {len(lost)} files is there, first {printable(lost[0][0])} ({lost[0][2]})"
        )
    lock = prepare_output(config)
    network = Networks(config)
    for note in network.notes:
        warn(f"note: {note}")
    for sentence in network.sentences:
        warn(sentence)
    results, pictures, failed = predict(config, network, records)
    failed = [*lost, *failed]
    for result in results:
        say(result.line)
        for warning in result.warnings:  # the line itself says why an age must not be used
            warn(f"WARNING: {printable(result.name)}: {warning}")
    for path, reason, detail in failed:
        warn(f"not read: {printable(path)}: {reason}: {detail}")
    if config.output_dir is not None:
        write(config, network, records, results, pictures, failed)
        say(
            f"{len(results):,} radiographs, {network.told}; open {config.output_dir / 'index.html'}"
        )
        lock.close()
    return 3 if failed else 0


def check(c) -> None:
    """Take BoneXage's form apart; refuse what could only fail later."""
    if c.line and c.images:
        raise ValueError(f"either BoneXage's form ({' '.join(c.line)[:80]}) or --images, not both")
    if c.line:
        if len(c.line) not in (2, 3, 4):
            raise ValueError(
                f"{len(c.line)} word{'s' * (len(c.line) != 1)} without a flag; expected IMAGE_LIST SEX [SIZE [MODEL]]"
            )
        c.images = [Path(c.line[0])]
        c.sex = c.line[1]
        c.saliency = c.output_dir is not None
        if len(c.line) > 2:
            if not (c.line[2].isascii() and c.line[2].isdigit()):
                raise ValueError(
                    f"SIZE {c.line[2]!r}: expected the side of the input in pixels, e.g. 512"
                )
            c.image_size = int(c.line[2])
        c.model_path = Path(c.line[3]) if len(c.line) > 3 else c.model_path
    elif not c.images:
        raise ValueError(
            "give --images (radiographs, folders, lists, tables), or IMAGE_LIST SEX [SIZE [MODEL]]"
        )
    elif c.output_dir is None:
        c.output_dir = Path("outputs/bone_age")
    limits = {
        "batch_size": c.batch_size >= 1,
        "num_workers": c.num_workers >= 0,
        "most_shown": c.most_shown >= 0,
        "level": 0 < c.level < 1,
        "image_size": c.image_size is None or 32 <= c.image_size <= 4096,
        "draws": c.draws >= 1,
        "seed": c.seed >= 0,
    }
    for name, fine in limits.items():
        if not fine:
            raise ValueError(f"--{name} {getattr(c, name)} is out of range")


def inputs(c):
    """(records with `sex_code` 1, 0 or NaN, files that are not there)."""
    beside = Path() if c.line else None
    passed_over = {}
    records, lost = read_inputs(
        c.images, recursive=c.recursive, beside=beside, passed_over=passed_over
    )
    if message := passed_over_message(passed_over):
        warn(f"note: {message}")
    if c.sex_from_dicom or c.age_from_dicom:
        count = add_patient_tags(records, sex=c.sex_from_dicom, age=c.age_from_dicom)
        warn(f"note: sex or age of {count} of {len(records)} files from DICOM tags")
    codes = []
    for word, said, image in zip(records["sex"], records["said"], records["image"]):
        try:
            code = sex_code(word)
            codes.append(sex_code(c.sex) if math.isnan(code) and not word else code)
        except ValueError as error:
            raise ValueError(
                f"{said if word else '--sex'}: {error} (of {printable(image)})"
            ) from None
    records["sex_code"] = codes
    if unknown := sum(map(math.isnan, codes)):
        warn(
            f"note: the sex of {unknown} of {len(records)} radiographs is unknown: mean of both answers"
        )
    return records, lost


def prepare_output(c):
    """The locked folder of the results, whose old results go; None without one."""
    if c.output_dir is None:
        return None
    make_folder(c.output_dir)
    lock = lock_folder(
        c.output_dir, "another run is writing into this folder; wait for it or give another one"
    )
    there = [name for name in CONTENT if (c.output_dir / name).exists()]
    if there and not c.overwrite:
        raise FileExistsError(
            f"{c.output_dir} holds results ({there[0]}); give another --output_dir, or --overwrite"
        )
    for name in there:
        (c.output_dir / name).unlink()
    return lock


class Networks:
    """One network, or all of a training's folds, whose mean answers; how they want their radiographs, and what is known
    of their training. K networks."""

    def __init__(self, c):

        self.device = choose_device(c.device)
        self.notes = []
        self.age_spread = None if c.age_sd is None else AgeSpread(c.age_sd)
        prepare_device(self.device)
        self.precision = resolve_precision(c.precision, self.device)
        found = load_bone_ages(c.model_path, c.weights)
        self.sentences, self.against = told_of(found)
        self.models = [one.model for one in found.values()]
        self.report = next(iter(found.values())).report
        if len(found) > 1:
            self.report = f"mean of {len(found)} networks of a cross-validation: {self.report}"
        self.preprocessing = Preprocessing.from_dict(next(iter(found.values())).preprocessor)
        trained = self.preprocessing.height, self.preprocessing.width
        if c.image_size and trained != (c.image_size, c.image_size):
            self.preprocessing = dataclasses.replace(
                self.preprocessing, height=c.image_size, width=c.image_size
            )
            self.notes.append(
                f"the network was trained on {trained[0]} x {trained[1]} pixels, not {c.image_size}: its "
                "errors there are not known"
            )
        same = trained == (self.preprocessing.height, self.preprocessing.width)
        references = self.find_references(list(found))
        self.ages = (
            references[0].ages if references else None
        )  # the range of the training holds at any size
        self.references = references if same else []
        self.likeness = Joint([one.likeness for one in self.references])
        layout = torch.channels_last  # convolutions are faster so
        for model in self.models:
            model.backbone.check_size(
                (self.preprocessing.height, self.preprocessing.width), c.model_path
            )
            model.to(self.device, memory_format=layout).eval().requires_grad_(False)
            model.normalise = lambda batch: self.preprocessing.normalise(batch).contiguous(
                memory_format=layout
            )
        unknown = "it is unknown whether a radiograph is like the training radiographs"
        if self.reference is None and not same:
            self.notes.append(f"no intervals, and {unknown}")
        elif self.reference is None:
            self.notes.append(
                f"{c.model_path}: no reference.npz of its training: no intervals, and {unknown}"
            )
        else:
            if reason := self.reference.reason(c.level):
                self.notes.append(f"no intervals: {reason}")
            if not self.likeness.known:
                self.notes.append(f"{unknown}: too few of those are known")
        self.told = ""

    def find_references(self, paths: list[Path]) -> list:
        """reference.npz of each model folder, or of the folder beside a .pth that holds the same weights; none unless
        each network has one, of the same left-out radiographs."""
        folders = [path if path.is_dir() else path.parent / "model" for path in paths]
        if not all((folder / FILE).is_file() for folder in folders):
            return []
        if not paths[0].is_dir() and weights_hash(load_bone_age(folders[0]).model) != weights_hash(
            self.models[0]
        ):
            self.notes.append(
                f"{folders[0]} holds another network than {paths[0]}; its reference.npz is not used"
            )
            return []
        found = [BoneAgeReference.load(folder / FILE) for folder in folders]
        for folder, one, model in zip(folders, found, self.models):
            one.likeness.check(folder / FILE, model.width)
            if not one.of_same_errors(found[0]):
                raise ValueError(
                    f"{folder} and {folders[0]} are of different trainings: their {FILE} hold the errors "
                    "of different radiographs"
                )
        return found

    @property
    def reference(self):
        """What is known of errors; it is the same for all networks. None if nothing is."""
        return self.references[0] if self.references else None

    def answers(self, images):
        """(pooled features [K, B, D], last maps, K of [B, C, r, c]) of images [B, 1, h, w] on the device."""
        with torch.no_grad(), autocast(self.device, self.precision):
            there = [model.last_map(images) for model in self.models]
            return torch.stack([model.pool(one) for model, one in zip(self.models, there)]), there

    def months(self, features, flipped):
        """[2, B] months and [2, B] spreads (NaN without), for girls and for boys; the mean with `flipped` features of
        each network, then of the networks."""
        both = []
        for code in (0.0, 1.0):
            sex = torch.full((features.shape[1],), code, device=features.device)
            each = []
            for number, model in enumerate(self.models):
                said = [
                    model.months(one[number], sex) for one in (features, flipped) if one is not None
                ]
                months = torch.stack([one.months for one in said]).mean(0)
                spread = [
                    torch.full_like(months, math.nan) if one.sd is None else one.sd for one in said
                ]
                each.append(
                    torch.stack([months, torch.stack(spread).mean(0)]).float().cpu().numpy()
                )
            each = np.stack(each, axis=1)  # [2, K, B]
            both.append(each[:, 0] if len(self.models) == 1 else together(*each))
        return tuple(np.stack(part) for part in zip(*both))

    def maps(self, there, codes):
        """Grad-CAM [B, r, c] of the months, the mean of the networks'."""
        found = [
            month_maps(model, one[: len(codes)], codes).cpu().numpy()
            for model, one in zip(self.models, there)
        ]
        return sum(found) / len(found)


def told_of(found: dict) -> tuple[list[str], str]:
    """(which networks answer, what trained them and how good they were, in sentences; what speaks against them)."""
    facts = []
    for path, one in found.items():
        try:
            facts.append(read_facts(one.about))
        except ValueError as error:
            raise ValueError(f"{printable(path)}: {error}") from None
    first = next(iter(found.values()))
    task = (
        "bone age"
        if len(found) == 1
        else f"bone age, the mean of {len(found)} networks of a cross-validation"
    )
    return network_sentences(network_name(task, first.model.backbone, first.about), facts), doubt(
        facts
    )


def predict(c, network: Networks, records):
    """(results, number of a result -> picture of the first `most_shown`, what could not be read)."""
    dataset = BoneAgeInputs(records["image"].tolist(), network.preprocessing, describe, DESCRIPTION)
    batches = ordered_batches(
        dataset,
        range(len(dataset)),
        batch_size=c.batch_size,
        num_workers=c.num_workers,
        pin_memory=network.device.type == "cuda",
        title="bone ages",
    )
    results = []
    pictures = {}
    failed = []
    waited = 0.0
    begun = time.perf_counter()
    batches = iter(batches)
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        waited += time.perf_counter() - asked
        if batch is None:
            break
        good = [place for place, reason in enumerate(batch["reason"]) if not reason]
        failed += [
            (Path(records["image"][int(batch["row"][place])]), reason, batch["detail"][place])
            for place, reason in enumerate(batch["reason"])
            if reason
        ]
        if not good:
            continue
        images = batch["image"][good].to(network.device, non_blocking=True)
        features, there = network.answers(images)
        flipped = network.answers(images.flip(-1))[0] if c.tta else None
        months, spreads = network.months(features, flipped)
        rows = [int(batch["row"][place]) for place in good]
        new = described(
            c,
            network,
            records,
            rows,
            months,
            spreads,
            features.cpu().numpy(),
            batch["look"][good].numpy(),
        )
        shown = min(c.most_shown - len(results), len(new)) if c.output_dir is not None else 0
        if shown > 0:
            codes = torch.tensor(
                records["sex_code"].to_numpy()[rows[:shown]], device=network.device
            ).float()
            maps = network.maps(there, codes) if c.saliency else [None] * shown
            for number in range(shown):
                size = tuple(batch["size"][good[number]].tolist())
                pictures[len(results) + number] = case_picture(
                    *displayed(network, images[number, 0], maps[number], size)
                )
        results += new
    seconds = max(time.perf_counter() - begun, 1e-9)
    network.told = (
        f"{len(records) / seconds:.1f}/s, {percent(waited / seconds)} of it waiting for files"
    )
    return results, pictures, failed


def displayed(network: Networks, image, cam, size: tuple[int, int]):
    """(uint8 [h, w], map at the same size or None, size to show) of a network's input: at the radiograph's own aspect
    where it was squashed, else as the network saw it."""
    grey = image.cpu().numpy()
    grey = grey if grey.dtype == np.uint8 else (grey * 255 + 0.5).astype(np.uint8)
    if cam is not None:
        cam = np.asarray(
            Image.fromarray(cam).resize(grey.shape[::-1], Image.Resampling.BICUBIC)
        ).clip(0)
    return grey, cam, size if network.preprocessing.resize == "squash" else grey.shape


def described(
    c, network: Networks, records, rows: list[int], months, spreads, features, looks
) -> list:
    """A `BoneAgeResult` for each of `rows`; months, spreads: [2, B] for girls and boys; features: [K, B, D];
    looks: [B, L], what `describe` gives."""
    if not np.isfinite(months).all():
        raise ValueError(
            f"{c.model_path}: the network gives ages that are not finite ({network.precision})"
        )
    codes = records["sex_code"].to_numpy()[rows]
    reference = network.reference
    share = np.where(np.isnan(codes), 0.5, codes)
    mean = (1 - share) * months[0] + share * months[1]
    low = high = unit = np.full(len(rows), math.nan)
    if reference is not None:
        low, high = bounds(c, reference, codes, months, spreads)
        unit = reference.sd(mean)
    likeness = network.likeness.of(features, [looks[:, :-FACTS]] * len(features))
    found = []
    for place, row in enumerate(rows):
        record = records.iloc[row]
        unknown = math.isnan(codes[place])
        reasons = []
        sd = spreads[:, place].mean() if unknown else spreads[int(codes[place]), place]
        girl, boy = map(float, months[:, place]) if unknown else (math.nan, math.nan)
        if network.likeness.is_unlike(likeness[place]):
            reasons.append(f"{network.likeness.sentence(likeness[place])}; it is perhaps no hand")
        if network.ages is not None and (
            beyond := range_warning([mean[place], girl, boy], network.ages)
        ):
            reasons.append(beyond)
        if reasons:  # both promise something for hands like those of the training alone
            low[place] = high[place] = unit[place] = math.nan
        sex = "" if unknown else "FM"[int(codes[place])]
        age = float(record["age_months"])
        one_sd = (
            network.age_spread.sd(sex, age)
            if network.age_spread and not reasons
            else float(unit[place])
        )
        found.append(
            BoneAgeResult(
                path=str(record["image"]),
                name=str(record["name"]),
                sex=sex,
                months=float(mean[place]),
                low=float(low[place]),
                high=float(high[place]),
                level=c.level,
                sd=float(sd),
                male=boy,
                female=girl,
                likeness=float(likeness[place]),
                like_training=network.likeness.word(likeness[place]),
                reasons=reasons,
                warnings=picture_warnings(looks[place, -FACTS:]),
                age=age,
                unit_sd=one_sd,
                target=float(record["target"]),
                network=" ".join(network.sentences),
            )
        )
    return found


def bounds(c, reference, codes, months, spreads):
    """Ends of the intervals [B]; of unknown sex they cover those of both sexes."""
    with_spread = not np.isnan(spreads).any()
    ends = [
        reference.interval(months[k], spreads[k] if with_spread else None, c.level) for k in (0, 1)
    ]
    chosen = [np.where(codes == 1, ends[1][part], ends[0][part]) for part in (0, 1)]
    widest = np.minimum(ends[0][0], ends[1][0]), np.maximum(ends[0][1], ends[1][1])
    return tuple(np.where(np.isnan(codes), wide, one) for wide, one in zip(widest, chosen))


def write(c, network: Networks, records, results: list, pictures: dict, failed: list) -> None:
    """All files of OUTPUT_DIR."""
    out = c.output_dir
    write_predictions(out / "predictions.csv", results)
    names = ("path", "reason", "detail")
    write_table(
        out / "failed.csv", names, (dict(zip(names, (printable(p), *rest))) for p, *rest in failed)
    )
    settings = dataclasses.asdict(c)
    settings |= {
        "network": network.report,
        "preprocessing": str(network.preprocessing),
        "speed": network.told,
    }
    write_bone_age_page(
        out / "index.html",
        results,
        pictures,
        about=" ".join(network.sentences),
        failed=failed,
        reference=network.reference,
        notes=network.notes,
        settings=settings,
        sd_of_table=network.age_spread is not None,
        against=network.against,
    )
    if any(not math.isnan(result.target) for result in results):
        evaluate(c, network, records, results, settings)


def evaluate(c, network: Networks, records, results: list, settings: dict) -> None:
    """The scores, where the truth is known."""
    patient = dict(zip(records["image"].astype(str), records["patient"].astype(str)))
    ended = any(not math.isnan(result.low) for result in results)
    useless = sum(bool(result.reasons) for result in results)
    notices = (
        [
            f"{useless:,} of {len(results):,} bone ages must not be used (see index.html); they count in the errors "
            "here, and have no interval."
        ]
        if useless
        else []
    )
    told = " ".join(network.sentences)
    page = BoneAgePage(
        "Bone age: predictions against the truth",
        f"{told} Research use only, not for diagnosis.",
        [result.target for result in results],
        [result.months for result in results],
        [result.sex for result in results],
        [patient[result.path] for result in results],
        [printable(Path(result.path).name) for result in results],
        baseline=None if network.reference is None else network.reference.baseline,
        picture=lambda row: Preprocessing().read(results[row].path),
        low=np.array([result.low for result in results]) if ended else None,
        high=np.array([result.high for result in results]) if ended else None,
        level=c.level,
        counts={"radiographs": f"{len(results):,}"},
        notices=[*notices, *network.notes],
        settings=settings,
        seed=c.seed,
        draws=c.draws,
    )
    write_bone_age_report(c.output_dir / "report.html", page)
    write_bone_age_tables(c.output_dir, page)
    mae = score_text("mae", page.results["scores"]["mae"])
    say(f"mean absolute error {mae} months; open {c.output_dir / 'report.html'}")
