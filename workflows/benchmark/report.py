"""The page of a benchmark: everything that a cross-validation found, in one file that needs nothing else.

What is computed elsewhere is shown, not computed again. Of the test radiographs the page holds file names, and small
pictures of the worst errors; it names no patient.
"""

import math
from pathlib import Path

import numpy as np

from core.files import file_names
from evaluation.pages import charts as figures
from evaluation.pages.html import (
    FEWEST_POINTS,
    Picture,
    Pictures,
    Table,
    data_uri,
    left_out,
    write_page,
)
from evaluation.pages.numbers import (
    SIGNIFICANT,
    interval_text,
    mean_text,
    metric_interval_text,
    number,
    p_text,
    three,
    told,
)
from evaluation.pages.verdicts import against_constant, against_others, few_patients, joined, turned
from evaluation.statistics.metrics import MAIN, SMALLER_IS_BETTER
from evaluation.statistics.subgroups import FEWEST, small_parts_sentence
from workflows.benchmark import details
from workflows.benchmark.page import (
    RANDOM,
    BenchmarkPage,
    Study,
    better_of,
    cell,
    labels_text,
    ranked,
    winners,
    with_shown_names,
    word,
)

MOST_PARTS = 40  # rows of a subgroup table
MOST_JUDGED = 3  # studies that the first line of a page is about
POOLED_NOTE = (
    "Pooled out-of-fold predictions: each radiograph's prediction comes from the one fold that neither learned from "
    "its patient nor was chosen on it; the 95 % interval is for other patients. Networks of different folds may "
    "use their scale differently, which can lower the pooled score. Mean and SD: of the folds' own scores, each on "
    "other radiographs; the "
)


def write_benchmark_report(path: Path, page: BenchmarkPage) -> None:
    """Write the page as one file; ValueError without a study."""
    if not page.studies:
        raise ValueError("a page of results needs at least one study whose folds are all there")
    page = with_shown_names(page)
    shown = ranked(page)
    detailed = [study for study in shown if study.labels == shown[0].labels]
    parts: list[Table | Pictures] = [_results(page, shown), _overview(page, shown)]
    parts += _comparisons(page) + _labels(page, shown)
    known = int((~np.isnan(page.test.target)).sum())
    if page.test.averaged:
        pass  # the details are those of ensembles
    elif known < FEWEST_POINTS:
        parts.append(left_out(["Curves, agreement, confusion and calibration"], known))
    elif page.test.kind == "regression":
        parts += details.agreement_parts(page, detailed)
    else:
        parts += details.curve_parts(page, detailed) if page.test.kind == "binary" else []
        parts += details.confusion_parts(page, detailed) + details.calibration_parts(page, detailed)
    parts += _subgroups(page, shown) + (
        [] if page.test.averaged else details.error_parts(page, detailed)
    )
    parts += [_over_folds(page, shown), *_folds(page, shown), *_audit(page), *_augmented(page)]
    write_page(
        path,
        page.title,
        page.lead,
        page.counts,
        parts,
        page.settings,
        verdict=_verdict(page, shown),
    )


def _verdict(page: BenchmarkPage, studies: list[Study]) -> str:
    """The studies that begin with trained weights (the best `MOST_JUDGED`) against chance and against random weights,
    and whether one beats all others."""
    best = studies[0]
    main = MAIN[page.test.kind]
    few = few_patients([best.summary["estimate"][main]["reason"]])
    compared = {study.name for study in studies if study.labels == best.labels}
    trained = [
        study
        for study in studies
        if study.name in compared and study.backbone not in page.random_starts
    ]
    sentences = (
        [few]
        if few
        else [_against_chance(page, study) for study in (trained or [best])[:MOST_JUDGED]]
    )
    starts = {
        study.name: study.name if study.name.endswith(RANDOM) else f"random weights ({study.name})"
        for study in studies
        if study.backbone in page.random_starts
    }
    for study in [] if few else trained[:MOST_JUDGED]:
        rows = [
            turned(row, study.name)
            for row in page.comparisons
            if study.name in (row["first"], row["second"])
        ]
        sentences.append(
            against_others(study.name, rows, starts, smaller=main in SMALLER_IS_BETTER)
        )
    if len(compared) > 1 and not few:
        winner = next(iter(winners(page) & compared), "")
        sentences.append(
            f"{winner or 'No study'} is {'' if winner else 'shown to be '}better than all others."
        )
    return joined(sentences)


def _against_chance(page: BenchmarkPage, study: Study) -> str:
    found = study.summary["estimate"]
    if page.test.kind == "regression":
        return against_constant(study.name, found["r2"], 0.0, "one value for all radiographs")
    return against_constant(study.name, found[MAIN[page.test.kind]], 0.5, "chance")


def _results(page: BenchmarkPage, studies: list[Study]) -> Table:
    main = MAIN[page.test.kind]
    best = winners(page)
    names = [main, *(name for name in studies[0].summary["estimate"] if name != main)]
    kappa = [study for study in studies if "studies" in study.summary]
    several = len({study.labels for study in studies}) > 1
    columns = [
        "study",
        *["labels"] * several,
        f"{word(page, main)}: {page.test.of} (95\u00a0%)",
        "folds: mean (SD)",
    ]
    columns += [f"{word(page, name)} (95\u00a0%)" for name in names[1:]] + [
        "kappa of studies"
    ] * bool(kappa)
    rows = []
    reasons = []
    for study in studies:
        found = study.summary["estimate"]
        row = [
            study.name + " (better than all others)" * (study.name in best),
            *[labels_text(page, study.labels)] * several,
            metric_interval_text(main, found[main]),
            mean_text(study.summary, main),
        ]
        row += [metric_interval_text(name, found[name]) for name in names[1:]]
        if kappa:
            row.append(number(study.summary.get("studies", {}).get("kappa", math.nan)))
        rows.append(row)
        reasons += [found[name]["reason"] for name in names]
    if page.test.pooled:
        note = POOLED_NOTE
    elif page.test.single:
        note = "Each fold learns from a draw of its own. Mean and SD: of the folds' scores on the same test set; the "
    else:
        note = (
            "Ensemble: the mean prediction of the folds on the test set, with the 95 % interval for other "
            "patients. Mean and SD: of the folds' own scores on the same test set; the "
        )
    if page.test.pooled:
        note += "SD shows what training and the choice of radiographs vary together. "
    else:
        note += "SD shows what training varies, the interval what other patients would. "
    if len(studies) > 1:
        note += "Best first. The order proves nothing: "
        note += (
            "which one is better than all others is shown by the paired comparisons below. "
            if best
            else ("no study is shown to be better than all others. ")
        )
    return Table("Results", columns, rows, note + told(reasons))


def _overview(page: BenchmarkPage, studies: list[Study]) -> Pictures:
    main = MAIN[page.test.kind]
    data = figures.interval_picture(
        [study.name for study in studies],
        [
            [fold[main] for fold in study.summary["folds"] if not math.isnan(fold[main])]
            for study in studies
        ],
        [three(study.summary["estimate"][main]) for study in studies],
        word(page, main),
        page.test.of,
    )
    way = "smaller" if main in SMALLER_IS_BETTER else "larger"
    return Pictures(
        f"{word(page, main)} at a glance",
        [Picture(data_uri(data), width=540)],
        f"The {way} the better.",
    )


def _comparisons(page: BenchmarkPage) -> list[Table]:
    if not page.comparisons:
        return []
    rows = []
    place = {study.name: number for number, study in enumerate(ranked(page))}
    for row in sorted(
        page.comparisons, key=lambda row: sorted([place[row["first"]], place[row["second"]]])
    ):
        difference = {"value": row["difference"], "low": row["low"], "high": row["high"]}
        better = better_of(row)
        verdict = f"{better} is better" if better else "no difference shown"
        rows.append(
            [
                f"{row['first']} less {row['second']}",
                interval_text(difference, signed=True),
                p_text(row["p"]),
                p_text(row["p_holm"]),
                p_text(row["p_folds"]),
                p_text(row["p_folds_holm"]),
                verdict,
            ]
        )
    both = (
        "p is the larger of both, so that a claim holds for other patients and other draws. "
        * page.test.single
    )
    delong = page.test.kind == "binary" and not page.test.averaged
    test = (
        "DeLong's test with patients as clusters"
        if delong
        else "the exchange of predictions by patient"
    )
    return [
        Table(
            "Comparisons",
            (
                "pair",
                f"difference of {word(page, MAIN[page.test.kind])} (95\u00a0%)",
                "p",
                "p (Holm)",
                "p over folds",
                "p over folds (Holm)",
                "reads as",
            ),
            rows,
            f"{page.test.of.capitalize()} on the same radiographs by {test}; over folds by the t-test corrected for "
            f"shared training data. {both}Holm's p allows for the number of comparisons with as many labels; below "
            f"{SIGNIFICANT:g} it counts. " + told([row["reason"] for row in page.comparisons]),
        )
    ]


def _labels(page: BenchmarkPage, studies: list[Study]) -> list[Pictures]:
    if len({study.labels for study in studies}) < 2:
        return []
    main = MAIN[page.test.kind]
    lines = {}
    for study in studies:
        lines.setdefault(study.backbone, []).append(
            (study.labels, *three(study.summary["estimate"][main]))
        )
    names = {
        labels: labels_text(page, labels) for labels in sorted({study.labels for study in studies})
    }
    data = figures.label_picture(lines, word(page, main), names)
    note = f"{page.test.of.capitalize()} with the 95 % interval; "
    if page.test.single:
        each = "" if page.test.kind == "regression" else " of each class"
        note += f"shots are labelled radiographs{each}, the fewer among the more."
    else:
        note += (
            "the patients of a smaller share are among those of a larger one. The parts below look at the "
            "studies with most labels."
        )
    return [Pictures("Label efficiency", [Picture(data_uri(data), width=540)], note)]


def _over_folds(page: BenchmarkPage, studies: list[Study]) -> Table:
    names = list(studies[0].summary["mean"])
    rows = [[study.name, *(mean_text(study.summary, name) for name in names)] for study in studies]
    return Table(
        "Mean (SD) over folds, all metrics",
        ("study", *(word(page, name) for name in names)),
        rows,
        folded=True,
    )


def _folds(page: BenchmarkPage, studies: list[Study]) -> list[Table]:
    tables = []
    for study in studies:
        columns = list(
            dict.fromkeys(["fold", *(name for fold in study.summary["folds"] for name in fold)])
        )
        rows = [
            [cell(fold.get(name, ""), name, name in study.summary["mean"]) for name in columns]
            for fold in study.summary["folds"]
        ]
        words = [word(page, name) if name in study.summary["mean"] else name for name in columns]
        tables.append(Table(f"Folds of {study.name}", words, rows, folded=True))
    return tables


def _subgroups(page: BenchmarkPage, studies: list[Study]) -> list[Table]:
    """One table for each column: the main metric of every study."""
    tables = []
    main = MAIN[page.test.kind]
    columns = file_names([name for study in studies for name in study.subgroups])
    for column, part_of_name in columns.items():
        having = [study for study in studies if column in study.subgroups]
        tables_of = [study.subgroups[column] for study in having]
        found = [table[table["metric"] == main].set_index("part") for table in tables_of]
        rows = []
        reasons = []
        counts = {str(part): int(count) for part, count in found[0]["radiographs"].items()}
        large = [part for part in found[0].index if counts[str(part)] >= FEWEST]
        for part in large[:MOST_PARTS]:
            first = found[0].loc[part]
            rows.append(
                [
                    str(part),
                    f"{first['radiographs']:,}",
                    f"{first['patients']:,}",
                    *(interval_text(one.loc[part]) for one in found),
                ]
            )
            reasons += [f"{part}: {first['reason']}" if first["reason"] else ""]
        more = len(large) - len(rows)
        note = (
            f"{word(page, main)} of the {page.test.of} (95\u00a0%) on parts of the test set; a difference between "
            "two parts can be chance. "
        )
        note += small_parts_sentence(counts)
        note += f"{more} more parts are in the files STUDY_by_{part_of_name}.csv. " if more else ""
        head = ("part", "radiographs", "patients", *(study.name for study in having))
        tables.append(Table(f"By {column}", head, rows, note + told(reasons)))
    return tables


def _audit(page: BenchmarkPage) -> list[Table]:
    rows = [
        ["radiographs", *(f"{len(side.target):,}" for side in page.sides)],
        ["patients or groups", *(f"{len(set(side.patients)):,}" for side in page.sides)],
    ]
    if page.test.kind == "regression":
        unit = f" ({page.unit})" if page.unit else ""
        for name, of in (
            ("mean", np.mean),
            ("SD", np.std),
            ("lowest", np.min),
            ("highest", np.max),
        ):
            rows.append(
                [name + unit, *(number(of(s.target)) if len(s.target) else "-" for s in page.sides)]
            )
    else:
        for label, name in enumerate(page.test.classes or ("0", "1")):
            rows.append(
                [f"class {name}", *(f"{(side.target == label).sum():,}" for side in page.sides)]
            )
    parts = [
        Table(
            "Split",
            ("", *(side.name for side in page.sides)),
            rows,
            "No patient or group is on two sides of a fold, unless a notice says so. splits.csv names every "
            "radiograph with its sha256.",
        )
    ]
    if page.notices:
        parts.append(
            Table("Notices about the data", ("notice",), [[notice] for notice in page.notices])
        )
    return parts


def _augmented(page: BenchmarkPage) -> list[Pictures]:
    if not page.augmented:
        return []
    shown = [
        Picture(details.small(picture), width=130)
        for pictures in page.augmented.values()
        for picture in pictures
    ]
    told = ", then ".join(f"{len(pictures)} {words}" for words, pictures in page.augmented.items())
    return [Pictures("Augmentation", shown, f"As the network sees them: {told}.", dark=True)]
