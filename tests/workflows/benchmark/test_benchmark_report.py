"""The page of a benchmark: every part is there, alone and escaped, also where there is little to show."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from html_elements import EVIL, Elements
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from evaluation.pages import charts as figures
from evaluation.pages.parts import MOST_ERRORS
from evaluation.statistics.agreement import bland_altman
from evaluation.statistics.calibration import reliability
from evaluation.statistics.operating_points import roc_band, roc_curve
from training.fold_files import FoldPredictions
from workflows.benchmark import details
from workflows.benchmark import study as benchmark
from workflows.benchmark.page import BenchmarkPage, Side, Study, better_of, ranked, winners
from workflows.benchmark.report import write_benchmark_report
from workflows.benchmark.study import by_subgroup, compare, summarise


def predictions(kind, target, generator, classes, noise):
    """Better than chance, and valid."""
    if kind == "regression":
        return target + noise * generator.standard_normal(len(target))
    if kind == "binary":
        return 1 / (1 + np.exp(-(2 * target - 1) - noise * generator.standard_normal(len(target))))
    raised = np.exp(
        2 * np.eye(classes)[target.astype(int)]
        + noise * generator.standard_normal((len(target), classes))
    )
    return raised / raised.sum(1, keepdims=True)


def a_page(
    kind,
    names=("first", "second"),
    labels=(1.0,),
    target=None,
    classes=(),
    rows=48,
    single=False,
    **changes,
):
    """A page of random predictions, the later the noisier."""
    generator = np.random.default_rng(5)
    count = {"binary": 2, "multiclass": len(classes), "regression": 0}[kind]
    if target is None:
        target = (
            generator.uniform(10, 200, rows) if kind == "regression" else np.arange(rows) % count
        )
    target = np.asarray(target, float)
    patients = [f"PATIENT-{row // 2}" for row in range(len(target))]
    test = benchmark.TestSet(
        kind, target, patients, classes=tuple(classes), draws=40, ordinal=count == 5, single=single
    )
    studies, compared = [], []
    for count_of in labels:
        found = {}
        for number, backbone in enumerate(names):
            name, noise = (
                f"{backbone}-{count_of:g}",
                (0.5 + 1.5 * number) / count_of * (20 if not count else 1),
            )
            folds = [
                FoldPredictions(
                    target,
                    *(predictions(kind, target, generator, count, noise) for _ in range(2)),
                    {"fold": k, "epoch": 1.5},
                )
                for k in range(3)
            ]
            study = Study(name, backbone, count_of, folds, summarise(folds, test))
            column = ["left"] * (len(target) - 4) + [EVIL] * 4
            study.subgroups["side"] = by_subgroup(folds, test, column)
            studies.append(study)
            found[name] = folds
        compared += compare(found, test, 100, 200) if len(found) > 1 else []
    page = BenchmarkPage(
        "Title",
        "lead",
        test,
        studies,
        compared,
        [f"images/{row:03d}.png" for row in range(len(target))],
        lambda row: np.full((40 + row, 30), row % 256, np.uint8),
        [Side("test", target, patients)],
        {"folds": "3"},
        notices=["two files left out"],
        augmented={"views": [np.zeros((16, 16), np.uint8)] * 3},
        settings={"seed": "0"},
        unit="months" if kind == "regression" else "",
    )
    return dataclasses.replace(page, **changes)


def a_pooled_page(kind, names=("first", "second"), classes=(), rows=48, **changes):
    """The same page where each of three folds predicts every third patient alone."""
    page = a_page(kind, names, classes=classes, rows=rows)
    own = [np.flatnonzero(np.arange(rows) // 2 % 3 == k) for k in range(3)]
    test = dataclasses.replace(page.test, pooled=True, **changes)
    studies = []
    for study in page.studies:
        folds = [
            dataclasses.replace(fold, test=fold.test[rows_of], rows=rows_of)
            for fold, rows_of in zip(study.folds, own)
        ]
        studies.append(
            dataclasses.replace(study, folds=folds, summary=summarise(folds, test), subgroups={})
        )
    compared = compare({study.name: study.folds for study in studies}, test, 16, 16)
    return dataclasses.replace(page, test=test, studies=studies, comparisons=compared)


def written(tmp_path, page):
    write_benchmark_report(tmp_path / "report.html", page)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    elements = Elements(text)
    sources = [image["src"] for image in elements.of("img")]
    assert all(re.match("data:image/(png|jpeg);base64,", source) for source in sources)
    for tag in ("script", "link", "iframe", "object"):
        assert not elements.of(tag)
    assert (
        "url(" not in text
        and "@import" not in text
        and not re.search("https?://(?!doi.org/)", text)
    )
    assert "PATIENT-" not in text
    return " ".join(elements.text), elements


ALWAYS = (
    "Results",
    "at a glance",
    "By side",
    "Worst errors of",
    "Split",
    "Notices about the data",
    "two files left out",
    "Augmentation",
    "Settings",
    "Folds of",
)
CLASSIFIED = ("Confusion matrices", "Calibration", "Reliability", "Brier")


def test_binary(tmp_path):
    page = a_page("binary", labels=(1.0, 0.5), classes=("no fracture", "fracture"))
    text, elements = written(tmp_path, page)
    more = ("ROC and precision-recall", "Comparisons", "Label efficiency", "class no fracture")
    for part in (*ALWAYS, *CLASSIFIED, *more):
        assert part in text, part
    assert "Agreement" not in text
    assert text.index("first-1") < text.index("second-1") < text.index("first-0.5")
    found = page.studies[0].summary["estimate"]["auroc"]
    assert f"{found['value']:.3f} ({found['low']:.3f}\u00a0to\u00a0{found['high']:.3f})" in text
    assert f"Parts of fewer than 10 radiographs have no score and are left out: {EVIL} (4)." in text
    assert "undefined" not in text


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_few_shots_show_no_ensemble(tmp_path, kind):
    text, _ = written(
        tmp_path, a_page(kind, labels=(20.0, 1.0), single=True, classes=("no", "yes"))
    )
    for part in (
        "Comparisons",
        "Label efficiency",
        "mean of the folds",
        "20\u00a0shots",
        "1\u00a0shot ",
        "By side",
    ):
        assert part in text, part
    assert not any(
        part in text for part in (*CLASSIFIED, "nsemble", "Worst errors", "Agreement", "DeLong")
    )


@pytest.mark.parametrize(
    "kind, classes", [("binary", "no yes"), ("multiclass", "a b c"), ("regression", "")]
)
def test_folds_with_test_sets_of_their_own_are_pooled(kind, classes):
    """All figures are those of one array with each row's prediction by its own fold."""
    page = a_pooled_page(kind, classes=classes.split())
    whole = {}
    for study in page.studies:
        pooled = np.full_like(np.repeat(study.folds[0].test[:1], 48, axis=0), np.nan)
        for fold in study.folds:
            pooled[fold.rows] = fold.test
        whole[study.name] = [FoldPredictions(study.folds[0].val_target, study.folds[0].val, pooled)]
        expected = summarise(whole[study.name], dataclasses.replace(page.test, pooled=False))
        assert (
            study.summary["estimate"] == expected["estimate"]
            and study.summary["of"] == benchmark.POOLED
        )
        assert study.summary.get("agreement") == expected.get("agreement")
        main = benchmark.MAIN[kind]
        each = [
            benchmark.metric_values(kind, page.test.target[f.rows], f.test)[main].value
            for f in study.folds
        ]
        assert study.summary["mean"][main] == pytest.approx(np.mean(each))
        if kind != "regression":
            assert study.summary["calibration"]["before"] == expected["calibration"]["before"]
    expected = compare(whole, dataclasses.replace(page.test, pooled=False), 16, 16)[0]
    found = page.comparisons[0]
    assert all(found[name] == expected[name] for name in ("difference", "low", "high", "p"))
    assert np.isfinite(found["p_folds"]) and np.isnan(expected["p_folds"])


def test_pooled_predictions_have_no_gaps_and_no_overlap():
    page = a_pooled_page("binary", classes=("no", "yes"))
    folds = page.studies[0].folds
    with pytest.raises(ValueError, match="must predict each row once"):
        summarise([folds[0], folds[0], folds[2]], page.test)


@pytest.mark.parametrize("kind, classes", [("binary", ("no", "yes")), ("regression", ())])
def test_a_page_of_pooled_predictions_says_so(tmp_path, kind, classes):
    text, _ = written(tmp_path, a_pooled_page(kind, classes=classes))
    parts = (
        "pooled out-of-fold predictions",
        "Pooled out-of-fold predictions on the same radiographs",
        "Worst errors",
    )
    for part in (*parts, *(CLASSIFIED if classes else ("Agreement",))):
        assert part in text, part
    assert "nsemble" not in text and "held-out" not in text and "same test set" not in text


def test_a_page_of_pooled_few_shots(tmp_path):
    text, _ = written(tmp_path, a_pooled_page("binary", classes=("no", "yes"), single=True))
    assert (
        "p is the larger of both" in text
        and "mean of the folds (95" not in text
        and "Calibration" in text
    )


def test_a_study_with_a_fold_that_is_not_finite_is_in_no_picture_of_pooled_predictions(tmp_path):
    page = a_pooled_page("binary", classes=("no", "yes"))
    page.studies[0].folds[1].test[:] = np.nan
    text, _ = written(tmp_path, page)
    assert "first-1: predictions of 1 folds are no numbers" in text


def test_long_names_lose_their_middle_and_nothing_is_cut_at_the_edge(monkeypatch):
    names = [
        f"a-network-with-a-very-long-name-that-goes-on-and-on-{'Wide' * 20}-seed-{seed}"
        for seed in (1, 2)
    ]
    drawn = []
    monkeypatch.setattr(figures, "_png", lambda figure: drawn.append(figure) or b"")
    target, predicted = np.arange(20.0), np.arange(20.0) + np.arange(20) % 3
    figures.interval_picture(
        names, [[0.1, 0.2]] * 2, [(0.5, 0.3, 0.7)] * 2, "AUROC", benchmark.POOLED
    )
    figures.confusion_picture(np.array([[5, 36], [8, 100]]), ["f", "m"], names[0])
    figures.truth_picture(target, predicted, names[0], "months")
    figures.agreement_picture(bland_altman(target, predicted), names[0], "months")
    line = roc_curve(target > 9, predicted / 40)
    figures.curve_picture("roc", [(name, line, roc_band([line])) for name in names], 0.5)
    figures.label_picture({name: [(1, 0.5, 0.4, 0.6)] for name in names}, "AUROC", {1: "100 %"})
    found = reliability("binary", (target > 9).astype(float), predicted / 40)
    figures.reliability_picture(found, None, names[0], "observed share")
    assert len(drawn) == 7
    for figure in drawn:
        FigureCanvasAgg(figure).draw()
        texts = [text for text in figure.findobj(Text) if "..." in text.get_text()]
        assert texts and all(re.search(r"seed-[12]", text.get_text()) for text in texts)
        for text in texts:
            box = text.get_window_extent()
            assert box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1, (
                text.get_text(),
                box,
                figure.bbox,
            )


def test_regression(tmp_path):
    text, elements = written(tmp_path, a_page("regression"))
    for part in (
        *ALWAYS,
        "Comparisons",
        "Agreement",
        "Truth and agreement",
        "MAE (months)",
        "off by",
    ):
        assert part in text, part
    assert not any(part in text for part in CLASSIFIED) and "Label efficiency" not in text
    assert text.count("images/") == MOST_ERRORS


def test_multiclass_with_an_absent_class_and_one_backbone(tmp_path):
    classes = (EVIL, "b$_", "c\nd", "absent", "e")
    page = a_page("multiclass", ("only",), target=np.arange(48) % 3, classes=classes, rows=48)
    text, elements = written(tmp_path, page)
    for part in (*ALWAYS, *CLASSIFIED, "without 'absent'", "Classes of only-1", "taken for"):
        assert part in text, part
    assert "Comparisons" not in text and "ROC and" not in text and "better than all" not in text


@pytest.mark.parametrize("one_class", [False, True])
def test_folds_and_test_sets_without_a_curve(tmp_path, one_class):
    page = a_page("binary", ("only",), target=np.ones(48) if one_class else None)
    if not one_class:
        page.studies[0].folds[1].test[3] = np.nan
    text, _ = written(tmp_path, page)
    told = (
        "No curve: the test set has one class only."
        if one_class
        else "only-1: predictions of 1 folds are no"
    )
    assert told in text and "Confusion matrices" in text


def test_hostile_names_cannot_become_markup(tmp_path):
    page = a_page(
        "regression", (EVIL, "$x_{$"), rows=30, files=[f"{EVIL}{row}" for row in range(30)]
    )
    page = dataclasses.replace(
        page,
        notices=[EVIL],
        title=EVIL,
        lead=EVIL,
        counts={EVIL: EVIL},
        unit=EVIL,
        settings={EVIL: EVIL},
        sides=[Side(EVIL, page.test.target, ["p"])],
    )
    text, elements = written(tmp_path, page)
    assert not re.search(
        r"\son\w+=", " ".join(re.findall(r"<[^>]*>", (tmp_path / "report.html").read_text()))
    )
    assert text.count(EVIL) > 40


def comparison(first, second, difference, p, metric="auroc"):
    return {
        "first": first,
        "second": second,
        "difference": difference,
        "p_holm": p,
        "metric": metric,
    }


def test_only_the_paired_comparison_makes_a_winner():
    page = a_page("regression", ("a", "b", "c"), rows=12)
    assert [study.backbone for study in ranked(page)] == ["a", "b", "c"]
    rows = [comparison("a-1", "b-1", -1, 0.01, "mae"), comparison("c-1", "a-1", 1, 0.049, "mae")]
    assert winners(dataclasses.replace(page, comparisons=rows)) == {"a-1"}
    for p in (0.05, np.nan):
        rows[1]["p_holm"] = p
        assert not winners(dataclasses.replace(page, comparisons=rows))
    assert (
        better_of(comparison("a", "b", 0.1, 0.01)) == "a"
        and better_of(comparison("a", "b", -0.1, 0.01)) == "b"
    )
    assert better_of(comparison("a", "b", 0.1, 0.01, "mae")) == "b" and not better_of(
        comparison("a", "b", 1, 0.2)
    )
    assert not winners(dataclasses.replace(page, studies=page.studies[:1], comparisons=[]))


def test_worst_errors():
    target = np.array([1, np.nan, 0, 1, 0, 0.0])
    assert details.worst_errors(
        "binary", target, np.array([0.3, 0.9, 0.95, 0.1, 0.2, 0.6])
    ).tolist() == [2, 3, 0, 5]
    assert details.worst_errors(
        "regression", target, np.array([1, 9, 3, 0, -5, 0.0]), 2
    ).tolist() == [4, 2]
    three = np.array(
        [[0.5, 0.4, 0.1], [0, 0, 1], [0.1, 0.1, 0.8], [0.2, 0.7, 0.1], [1, 0, 0], [0, 1, 0]]
    )
    assert details.worst_errors("multiclass", target, three).tolist() == [5, 2, 0]


def test_missing_parts_of_a_column_are_rows(tmp_path):
    page = a_page("regression", ("a",), rows=24)
    folds = page.studies[0].folds
    column = [None] * 12 + [7.0] * 12
    page.studies[0].subgroups = {"age": by_subgroup(folds, page.test, column)}
    text, _ = written(tmp_path, page)
    assert "By age" in text and "(missing)" in text
    assert isinstance(page.studies[0].subgroups["age"], pd.DataFrame)


def test_draws_of_few_labels_are_compared_as_draws():
    """Of 6 in 300 radiographs next to nothing is shared: nearly the plain paired t-test over the draws."""
    page = a_page("binary", single=True, labels=(1.0,))
    first, second = ([fold["auroc"] for fold in study.summary["folds"]] for study in page.studies)
    found = {study.name: study.folds for study in page.studies}
    plain = scipy.stats.ttest_rel(first, second).pvalue
    (few,), (many,) = (compare(found, page.test, size, 300) for size in (6, 300))
    assert few["p_folds"] == pytest.approx(plain, rel=0.1) and many["p_folds"] > 0.99
    together = dataclasses.replace(page.test, single=False)
    assert (
        few["p"] >= few["p_folds"] and many["p"] == many["p_folds"]
    )  # what patients alone say is not enough
    assert compare(found, together, 6, 300)[0]["p_folds"] > few["p_folds"]


def verdict(tmp_path, page) -> str:
    write_benchmark_report(tmp_path / "report.html", page)
    return re.search(
        "<p class=verdict>(.*?)</p>", (tmp_path / "report.html").read_text(encoding="utf-8")
    )[1]


def test_legends_cover_no_point(monkeypatch):
    monkeypatch.setattr(figures, "_png", lambda figure: figure)
    target = np.arange(20) % 2
    found = reliability("binary", target, target * 0.5)
    for figure in (
        figures.reliability_picture(found, found, "title", "observed share"),
        figures.truth_picture(target, target, "title", "", ["girls", "boys"] * 10),
    ):
        FigureCanvasAgg(figure).draw()
        (axis,) = figure.axes
        assert axis.get_legend().get_window_extent().y0 >= axis.get_window_extent().y1


def test_the_first_line_says_what_came_out(tmp_path):
    good = verdict(tmp_path, a_page("binary", ("trained", "random"), random_starts={"random"}))
    assert good.startswith("trained-1 is better than chance. trained-1 is ")
    assert "random weights (random-1)" in good
    shown = verdict(tmp_path, a_page("binary", ("trained", "none-vit"), random_starts={"none-vit"}))
    assert (
        "vit-1, random weights (difference " in shown
        and "none-vit" not in (tmp_path / "report.html").read_text()
    )
    tossed = a_page("binary", ("only",), target=np.random.default_rng(0).permutation(48) % 2)
    for fold in tossed.studies[0].folds:
        fold.test[:] = np.random.default_rng(1).random(48)
    tossed.studies[0].summary = summarise(tossed.studies[0].folds, tossed.test)
    assert verdict(tmp_path, tossed) == "only-1 is not shown to be better than chance."
    ages = a_page("regression", ("only",))
    for fold in ages.studies[0].folds:
        fold.test[:] += 5000
    ages.studies[0].summary = summarise(ages.studies[0].folds, ages.test)
    assert verdict(tmp_path, ages) == "only-1 is worse than one value for all radiographs."
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "below -1" in text and not re.search(r"-\d{3,}\.\d", text)


def test_few_patients_show_nothing(tmp_path):
    """9 radiographs of 4 patients were "1.000 (1.000 to 1.000)"."""
    page = a_page("binary", ("only",), rows=8)
    for fold in page.studies[0].folds:
        fold.test[:] = page.test.target
    page.studies[0].summary = summarise(page.studies[0].folds, page.test)
    few = "Too few patients (4; 4 with the finding)"
    assert few not in verdict(tmp_path, page)  # each patient has both: four of either
    patients = [f"PATIENT-{row}" for row in (0, 1, 0, 1, 0, 1, 2, 3)]
    test = dataclasses.replace(page.test, patients=patients)
    page.studies[0].summary = summarise(page.studies[0].folds, test)
    page = dataclasses.replace(page, test=test)
    expected = (
        "Too few patients (4; 2 with the finding) for intervals and tests: the values show nothing."
    )
    assert verdict(tmp_path, page) == expected
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "8 radiographs; at least 10 are needed" in text and "1.000 (1.000" not in text
