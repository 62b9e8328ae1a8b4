"""What a pretrained encoder has learned, measured on phantoms."""

import dataclasses
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from core.files import check_folder, make_folder, write_text
from core.progress import bar, portions, say
from core.system.device import autocast, choose_device, prepare_device, use_explicit_attention
from core.tables import write_table
from core.text import shortened
from data.datasets.loader import step_batches
from data.reading.radiograph import load_radiograph
from data.releases.phantoms import PHANTOM_TASKS, PhantomFolder, phantom_regions, phantom_target
from data.views.augmentation import CropFlip
from data.views.preprocessing import Preprocessing
from evaluation.maps.error_maps import (
    complementary_passes,
    error_maps,
    mask_generator,
    visible_patches,
)
from evaluation.maps.localisation import BASELINES, chance_scores, localisation_scores
from evaluation.maps.reconstruction import reconstruction_errors
from evaluation.statistics.comparison import compare_metrics
from evaluation.statistics.intervals import FRACTION, mean_interval, metric_intervals
from evaluation.statistics.metrics import MAIN
from evaluation.statistics.neighbours import PatchBank, patches_of
from evaluation.statistics.probes import linear_probe, patch_targets, pca_features
from models.networks.mae import MaskedAutoencoder
from models.networks.supervised import Supervised
from models.weights.checkpoint import load_mae
from training.fit import Fit, fit
from training.optim import adamw, parameter_groups
from training.sampling import Plan
from training.schedules import constant, warmup_cosine
from workflows.evidence.tables import (
    COMPARISON_COLUMNS,
    judged,
    markdown,
    summary,
    verdict,
    write_pretraining_page,
)

STARTS = ("pretrained", "from scratch")
# how much of a radiograph a random crop keeps while fine-tuning (0.7-1); an age shows in size, which crops hide
CROPS = {"bone_age": (1.0, 1.0)}
PARTS = ("reconstruction", "localisation", "probes", "dense", "finetune")


def evaluate(config) -> int:
    """Measure what `config.parts` asks for and write tables and a page. Exit status 0."""
    for name, choices in (("parts", PARTS), ("starts", STARTS)):
        unknown = sorted(set(getattr(config, name)) - set(choices))
        if unknown:
            raise ValueError(f"--{name} {unknown[0]!r}: choose {', '.join(choices)}")

    out = Path(config.out)
    check_folder(out)

    study = Study(config)
    make_folder(out)
    for part in config.parts:
        getattr(study, part)()
        table = study.table()
        write_table(out / "results.csv", list(table.columns), table.to_dict("records"))
    text = markdown(study.table(), title=f"{shortened(config.model_path)}, seed {config.seed}")
    write_text(out / "results.md", text)
    compared = judged(study.comparisons)
    write_table(
        out / "comparisons.csv",
        COMPARISON_COLUMNS,
        [{c: row[c] for c in COMPARISON_COLUMNS} for row in compared],
    )
    counts = study.counts()
    settings = study.settings()
    write_pretraining_page(
        out / "index.html", study.table(), compared, counts=counts, settings=settings
    )
    say(*summary(study.table()).splitlines(), "", verdict(compared), f"open {out / 'index.html'}")
    return 0


class Study:
    """Reads everything once; each method named in PARTS adds rows (dicts) to `rows`."""

    def __init__(self, config):

        self.config = config
        self.rows = []
        self.comparisons = []
        self.device = choose_device(config.device)
        prepare_device(self.device)
        loaded = load_mae(config.model_path, weights=config.weights)
        say(loaded.report)
        if loaded.preprocessor is None:
            raise ValueError(f"{config.model_path}: has no preprocessor_config.json")
        self.preprocessing = Preprocessing.from_dict(loaded.preprocessor)
        self.mae = loaded.model.to(self.device)
        torch.manual_seed(config.seed)
        if self.mae.norm_pix_loss and "reconstruction" in config.parts:
            raise ValueError(
                f"{config.model_path}: predicts patch-normalised values, no pixels to compare; leave "
                "reconstruction out of --parts"
            )
        self.untrained = MaskedAutoencoder(self.mae.config).eval().to(self.device)
        self.sets = {}
        for name, folder in (("train", config.train), ("test", config.test)):
            records = PhantomFolder.read(folder)
            self.sets[name] = PhantomFolder(records, self.preprocessing, keep=True)
        shared = set(self.records("train")["patient"]) & set(self.records("test")["patient"])
        if shared:
            raise ValueError(
                f"{len(shared)} patients are in both {config.train} and {config.test}; use another --seed "
                "of make_phantoms.py with other patient numbers"
            )
        if config.most_maps < 2:
            raise ValueError(f"--most_maps {config.most_maps}: expected a number from 2")
        needed = {"localisation": ("test",), "dense": ("train", "test")}
        for part in needed.keys() & set(config.parts):
            for name in needed[part]:
                if not (self.records(name)["mask"] != "").any():
                    raise ValueError(
                        f"{getattr(config, name)}: no radiograph has a finding, which the part {part} of "
                        "--parts needs"
                    )
        self.pixels = {name: self.network_pixels(name) for name in self.sets}

    # shared ------------------------------------------------------------------------------------------------------

    def records(self, name: str):
        return self.sets[name].records

    def network_pixels(self, name: str):
        """[R, h, w] uint8: every radiograph of a set as the network's input."""
        dataset = self.sets[name]
        items = bar(f"reading {name}", "radiograph")(range(len(dataset)))
        return np.stack([dataset[i]["image"][0].numpy() for i in items])

    def finding(self, name: str, row: int):
        """The mask of one radiograph in the network's pixels, bool [h, w]."""
        mask = load_radiograph(self.records(name)["mask"][row], allow_constant=True)
        return self.preprocessing.forward_map(mask > 0)

    def unit(self, name: str, rows):
        """[B, h, w] float32 in [0, 1]."""
        pixels = self.pixels[name][rows]
        return pixels.astype("float32") / 255 if pixels.dtype == "uint8" else pixels

    def interval(self, kind: str, truth, predicted, patients, name: str, minus=None):
        """The score of test predictions (less the score of the predictions `minus`) with its interval.

        The unit is the patient; the same `name` gives the same draws.
        """
        options = {"generator": self.generator(name), "draws": 1000}
        if minus is None:
            return metric_intervals(kind, truth, predicted, patients, **options)[MAIN[kind]]
        return compare_metrics(
            kind, truth, predicted, minus, patients, only=(MAIN[kind],), **options
        )[MAIN[kind]]

    def add(
        self, part: str, task: str, method: str, metric: str, value, *, labels: int = 0
    ) -> None:
        """`value`: an Interval, a Comparison or a number."""
        low = getattr(value, "low", float("nan"))
        high = getattr(value, "high", float("nan"))
        number = float(getattr(value, "estimate", getattr(value, "difference", value)))
        self.rows.append(
            {
                "part": part,
                "task": task,
                "labels": labels,
                "method": method,
                "metric": metric,
                "value": number,
                "low": low,
                "high": high,
                "seed": self.config.seed,
            }
        )

    def compare(
        self, part: str, task: str, methods: tuple[str, str], metric: str, value, *, labels: int = 0
    ) -> None:
        """`value`: the Comparison, or the Interval of the mean difference, first less second of `methods`."""
        row = {
            "part": part,
            "task": task,
            "labels": labels,
            "method": methods[0],
            "other": methods[1],
        }
        row |= {"metric": metric, "smaller": metric.startswith(("MAE", "MSE"))}
        row["difference"] = float(
            value.difference if hasattr(value, "difference") else value.estimate
        )
        low, high = (
            end if math.isfinite(end) else math.nan for end in (value.low, value.high)
        )  # of equal answers
        row |= {
            "low": low,
            "high": high,
            "p": getattr(value, "p", float("nan")),
            "reason": value.reason,
        }
        self.comparisons.append(row)

    def counts(self) -> dict[str, str]:
        """What the page is about, in numbers."""
        counts = {}
        for name in self.sets:
            counts[f"{name} radiographs"] = f"{len(self.records(name)):,}"
            counts[f"{name} patients"] = f"{self.records(name)['patient'].nunique():,}"
        return counts

    def settings(self) -> dict[str, str]:
        """The flags that decide the numbers, as the page shows them."""
        settings = {
            name: value
            for name, value in asdict(self.config).items()
            if name not in ("out", "device")
        }
        for name, value in settings.items():
            settings[name] = (
                " ".join(map(str, value)) if isinstance(value, list) else shortened(str(value))
            )
        return settings

    def table(self):

        return pd.DataFrame(self.rows)

    def generator(self, name: str):

        return np.random.default_rng([self.config.seed, *name.encode()])

    def spread(self, rows, most: int):
        """At most `most` of `rows`, evenly spread."""
        return (
            rows
            if len(rows) <= most
            else rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]
        )

    # parts -------------------------------------------------------------------------------------------------------

    def reconstruction(self) -> None:
        """Mean squared error on the hidden pixels of test radiographs, each method with the same masks."""
        rows = self.spread(np.arange(len(self.records("test"))), self.config.most_maps // 2)
        mean_image = self.unit("train", slice(None)).mean(0)
        errors = reconstruction_errors(
            self.mae,
            self.preprocessing,
            self.pixels["test"][rows],
            mean_image,
            self.config.seed,
            self.device,
        )
        patients = self.records("test")["patient"].to_numpy()[rows]
        for name, values in errors.items():
            interval = mean_interval(values, patients)
            self.add("reconstruction", "hidden pixels", name, "MSE", interval)
        gain = mean_interval(
            errors["masked autoencoder"] - errors["linear interpolation"], patients
        )
        methods = ("masked autoencoder", "linear interpolation")
        self.compare("reconstruction", "hidden pixels", methods, "MSE", gain)

    def localisation(self) -> None:
        """Per condition: pixel AUROC and pointing rate of the error map, of an untrained one and of trivial maps."""
        records = self.records("test")
        generator = self.generator("localisation")
        rows = self.spread(np.flatnonzero(records["mask"] != ""), self.config.most_maps)
        normal = np.flatnonzero(self.records("train")["condition"] == "normal")
        bank = PatchBank(self.unit("train", normal), self.mae.patch_size, generator)
        maps = {
            "error map": self.maps(self.mae, rows),
            "untrained autoencoder": self.maps(self.untrained, rows),
        }
        found = []
        for k, row in enumerate(bar("localisation", "radiograph")(rows)):
            truth = self.finding("test", row)
            if not truth.any():
                continue
            image = self.unit("test", row)
            methods = {name: of[k] for name, of in maps.items()}
            methods |= {
                name.replace("_", " "): trivial(image) for name, trivial in BASELINES.items()
            }
            methods["raw-patch nearest neighbour"] = bank.distance_map(image)
            scores = {name: localisation_scores(values, truth) for name, values in methods.items()}
            scores["chance"] = chance_scores(truth)
            found.append((records["condition"][row], records["patient"][row], scores))
        conditions = ["all", *sorted({condition for condition, _, _ in found})]
        for condition in conditions:
            chosen = [f for f in found if condition in ("all", f[0])]
            patients = [f[1] for f in chosen]
            for method in chosen[0][2]:
                for metric in ("pixel_auroc", "pointing_game", "aupro"):
                    values = [f[2][method][metric] for f in chosen]
                    interval = mean_interval(values, patients, limits=FRACTION)
                    self.add("localisation", condition, method, metric, interval)
        self.compare_maps([patient for _, patient, _ in found], [scores for _, _, scores in found])

    def compare_maps(self, patients, scores) -> None:
        """The error map with the untrained one, and with the best of those that need no network."""
        values = {
            method: np.array([score[method]["pixel_auroc"] for score in scores])
            for method in scores[0]
        }
        simple = values.keys() - {"error map", "untrained autoencoder"}
        best = max(sorted(simple), key=lambda method: np.nanmean(values[method]))
        for method in ("untrained autoencoder", best):
            gain = mean_interval(values["error map"] - values[method], patients)
            self.compare("localisation", "all", ("error map", method), "pixel_auroc", gain)

    def maps(self, mae, rows):
        """[B, h, w] error maps of test radiographs from complementary masks."""
        c = self.config
        K = mae.config.visible
        passes = complementary_passes(c.passes, mae.config.patches, K)
        parts = []
        chunks = np.array_split(rows, max(1, len(rows) // 16))
        for chunk in portions(chunks, [len(chunk) for chunk in chunks], "error maps", "radiograph"):
            batch = torch.from_numpy(self.pixels["test"][chunk])[:, None].to(self.device)
            visible = np.stack(
                [
                    visible_patches(
                        passes, mae.grid, K, mask_generator(c.seed, str(row)), "complementary"
                    )
                    for row in chunk
                ]
            )
            found = error_maps(
                mae,
                self.preprocessing.normalise(batch),
                visible,
                mean=self.preprocessing.mean,
                std=self.preprocessing.std,
                batch_size=128,
            )
            parts.append(found.maps)
        return np.concatenate(parts)

    def probes(self) -> None:
        """Linear probes on frozen features, with the largest number of labels."""
        features = {
            "pretrained": self.features(self.mae),
            "untrained": self.features(self.untrained),
        }
        low = {name: pixels[:, ::2, ::2] for name, pixels in self.pixels.items()}
        features["PCA of pixels"] = dict(
            zip(("train", "test"), pca_features(low["train"], low["test"]))
        )
        train_patients = self.records("train")["patient"].to_numpy()
        for task in self.config.tasks:
            (rows, target), (test_rows, truth), info = (
                self.labelled("train", task),
                self.labelled("test", task),
                self.info(task),
            )
            chosen = self.generator(f"labels {task}").permutation(len(rows))[
                : max(self.config.labels)
            ]
            patients = self.records("test")["patient"].to_numpy()[test_rows]
            answers = {}
            for method, by_set in bar(f"linear probes of {task}", "probe")(features.items()):
                predicted = answers[method] = linear_probe(
                    info.kind,
                    by_set["train"][rows[chosen]],
                    target[chosen],
                    by_set["test"][test_rows],
                    train_patients[rows[chosen]],
                )
                interval = self.interval(info.kind, truth, predicted, patients, task)
                self.add(
                    "linear probe", task, method, metric_of(info), interval, labels=len(chosen)
                )
            gain = self.interval(
                info.kind, truth, answers["pretrained"], patients, task, minus=answers["untrained"]
            )
            methods = ("pretrained", "untrained")
            self.compare("linear probe", task, methods, metric_of(info), gain, labels=len(chosen))

    def dense(self) -> None:
        """Linear probe on single patch tokens: is this patch part of a finding?"""
        P = self.mae.patch_size
        picked = {}
        inputs = {"pretrained": {}, "untrained": {}, "raw patch": {}}
        for name in self.sets:
            records = self.records(name)
            rows = self.spread(np.flatnonzero(records["mask"] != ""), 300)
            masks = [
                self.finding(name, row) for row in bar(f"findings of {name}", "radiograph")(rows)
            ]
            use, target = patch_targets(np.stack(masks), self.unit(name, rows), P)
            owners = np.repeat(records["patient"].to_numpy()[rows], use.sum(1))
            most = 8000 if name == "train" else len(owners)
            chosen = self.generator("dense").permutation(len(owners))[:most]
            picked[name] = target[use][chosen], owners[chosen]
            inputs["pretrained"][name] = self.tokens(self.mae, name, rows)[use][chosen]
            inputs["untrained"][name] = self.tokens(self.untrained, name, rows)[use][chosen]
            inputs["raw patch"][name] = patches_of(self.unit(name, rows), P)[use][chosen]
        raw = inputs["raw patch"]
        inputs["PCA of patches"] = dict(
            zip(("train", "test"), pca_features(raw["train"], raw["test"], 32))
        )
        (target, owners), (truth, patients) = picked["train"], picked["test"]
        for method, found in bar("dense probes", "probe")(inputs.items()):
            predicted = linear_probe("binary", found["train"], target, found["test"], owners)
            interval = self.interval("binary", truth, predicted, patients, "dense")
            self.add(
                "dense probe", "finding in patch", method, "AUROC", interval, labels=len(target)
            )

    def finetune(self) -> None:
        """The same network from pretrained and from random weights, with few labels; the last step counts."""
        c = self.config
        for task in c.tasks:
            (rows, target), (test_rows, truth), info = (
                self.labelled("train", task),
                self.labelled("test", task),
                self.info(task),
            )
            patients = self.records("test")["patient"].to_numpy()[test_rows]
            order = self.generator(f"labels {task}").permutation(len(rows))
            for labels in c.labels:
                chosen = order[:labels]
                if len(chosen) < labels:
                    say(
                        f"{task}: only {len(chosen)} labelled radiographs for --labels {labels}; left out"
                    )
                    continue
                found = {}
                for start in c.starts:
                    say(f"fine-tuning {task}, {labels} labels, {start}: {c.steps} steps")
                    model = self.finetuned(start, task, rows[chosen], target[chosen])
                    found[start] = self.predictions(model, test_rows)
                if info.kind == "regression":
                    found["mean of the labels"] = np.full(len(truth), target[chosen].mean())
                for method, predicted in found.items():
                    interval = self.interval(info.kind, truth, predicted, patients, task)
                    self.add("fine-tuning", task, method, metric_of(info), interval, labels=labels)
                    say(
                        f"fine-tuning {task}, {labels} labels, {method}: {metric_of(info)} {interval}"
                    )
                if set(STARTS) <= set(found):
                    gain = self.interval(
                        info.kind,
                        truth,
                        found["pretrained"],
                        patients,
                        task,
                        minus=found["from scratch"],
                    )
                    self.add(
                        "fine-tuning", task, "difference", metric_of(info), gain, labels=labels
                    )
                    self.compare("fine-tuning", task, STARTS, metric_of(info), gain, labels=labels)

    # networks ------------------------------------------------------------------------------------------------------

    def info(self, task: str):
        """The Task, with the regions of the training table as classes of "region"."""
        if task not in PHANTOM_TASKS:
            raise ValueError(f"--tasks {task!r}: choose {', '.join(PHANTOM_TASKS)}")
        info = PHANTOM_TASKS[task]
        return (
            dataclasses.replace(info, classes=tuple(phantom_regions(self.records("train"))))
            if task == "region"
            else info
        )

    def labelled(self, name: str, task: str):
        """Row numbers that have a target, and the targets."""
        target = phantom_target(
            self.records(name), task, phantom_regions(self.records("train"))
        ).to_numpy(float)
        rows = np.flatnonzero(~np.isnan(target))
        return rows, target[rows]

    def batches(self, name: str, rows, size: int = 128):

        parts = [rows[begin : begin + size] for begin in range(0, len(rows), size)]
        for part in portions(
            parts, [len(part) for part in parts], f"network on {name}", "radiograph"
        ):
            pixels = torch.from_numpy(self.pixels[name][part])[:, None]
            yield self.preprocessing.normalise(pixels.to(self.device))

    def features(self, mae) -> dict:
        """{"train": [R, 2 D], "test": ...}: class token and mean of the patch tokens of the last block."""
        backbone = mae.backbone().eval()
        found = {}
        backbone.to(self.device)
        for name in self.sets:
            parts = []
            with torch.no_grad(), autocast(self.device, self.config.precision):
                for images in self.batches(name, np.arange(len(self.records(name)))):
                    tokens = backbone.tokens(images).float()
                    parts.append(torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1).cpu().numpy())
            found[name] = np.concatenate(parts)
        return found

    def tokens(self, mae, name: str, rows):
        """[B, N, D] patch tokens of the last block."""
        backbone = mae.backbone().eval().to(self.device)
        with torch.no_grad(), autocast(self.device, self.config.precision):
            return np.concatenate(
                [backbone.tokens(x)[:, 1:].float().cpu().numpy() for x in self.batches(name, rows)]
            )

    def finetuned(self, start: str, task: str, rows, target):
        """A backbone with a linear head after `steps` steps on the given training rows."""
        c = self.config
        p = self.preprocessing
        info = self.info(task)
        torch.manual_seed(c.seed)
        mae = self.mae if start == "pretrained" else MaskedAutoencoder(self.mae.config)
        spread = (target.mean(), target.std()) if info.kind == "regression" else (0.0, 1.0)
        model = Supervised(
            mae.backbone("avg", drop_path=0.1), info.kind, info.outputs, p.normalise, *spread
        )
        use_explicit_attention(model.to(self.device), self.device)
        records = self.records("train").iloc[rows].assign(target=target)
        crop = CropFlip(p.height, p.width, CROPS.get(task, (0.7, 1.0)), own_aspect=True)
        dataset = PhantomFolder(records, p, crop, seed=c.seed, keep=True)
        batch_size = min(c.batch_size, len(dataset))
        plan = Plan(len(dataset), batch_size, epochs=c.steps / (len(dataset) // batch_size))
        decay = c.layer_decay if start == "pretrained" else 1.0
        outcome = fit(
            model,
            Fit(
                plan=plan,
                optimizer=adamw(parameter_groups(model, decay)),
                device=self.device,
                precision=c.precision,
                schedules={"lr": warmup_cosine(c.lr, warmup=0.1), "weight_decay": constant(0.05)},
                seed=c.seed,
                batches=step_batches(dataset, plan, seed=c.seed, rank=0, num_workers=0),
                progress_bar=True,
            ),
        )
        if outcome != "finished":
            raise SystemExit(143)
        return model.eval()

    def predictions(self, model, rows):

        # batches arrive normalised here
        normalise = model.normalise
        model.normalise = None
        with torch.no_grad(), autocast(self.device, self.config.precision):
            found = np.concatenate(
                [model.predict(x).float().cpu().numpy() for x in self.batches("test", rows)]
            )
        model.normalise = normalise
        return found


def metric_of(info) -> str:
    """What `evaluation.statistics.metrics.score` computes for this task."""
    return f"MAE ({info.unit})" if info.kind == "regression" else "AUROC"
