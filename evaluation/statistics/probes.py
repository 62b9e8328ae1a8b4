"""What frozen features know: linear probes on cached features, by the metric that fits the task.

R radiographs (rows), D features.
"""

import math
from collections.abc import Callable

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, Ridge, RidgeCV
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from core.progress import portions, steps
from evaluation.statistics.metrics import score
from evaluation.statistics.neighbours import patches_of


def linear_probe(
    kind: str,
    train: np.ndarray,
    target: np.ndarray,
    test: np.ndarray,
    patients: np.ndarray | None = None,
) -> np.ndarray:
    """Fit on standardised features [R, D], predict for `test`: probabilities or values as
    `evaluation.statistics.metrics` takes them.

    The strength of the L2 penalty is chosen by cross-validation on the training rows, 5-fold (3-fold below 100 rows),
    with all rows of one of the `patients` [R] in the same fold.
    """
    groups = np.arange(len(train)) if patients is None else patients
    count = 3 if len(train) < 100 else 5
    if kind == "regression":
        splits = list(GroupKFold(count).split(train, target, groups))
        model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 5, 13), cv=splits))
        return model.fit(train, target).predict(test)
    folds = list(
        StratifiedGroupKFold(count, shuffle=True, random_state=0).split(
            train, target.astype(int), groups
        )
    )
    logistic = LogisticRegressionCV(
        Cs=np.logspace(-4, 0, 5),
        cv=folds,
        scoring="neg_log_loss",
        solver="newton-cholesky",
        l1_ratios=(0.0,),
        use_legacy_attributes=False,
    )
    model = make_pipeline(StandardScaler(), logistic).fit(train, target.astype(int))
    probabilities = model.predict_proba(test)
    return probabilities[:, 1] if kind == "binary" else probabilities


def patch_targets(
    masks: np.ndarray, images: np.ndarray, patch: int
) -> tuple[np.ndarray, np.ndarray]:
    """(use, target), both [R, N]: which patches of `images` [R, h, w] count, and which show a finding of `masks`.

    A patch is positive if more than a quarter of it is finding and negative without any; those at a finding's rim, and
    empty ones (mean below 0.05), do not count.
    """
    share = patches_of(masks, patch).mean(2)
    brightness = patches_of(images, patch).mean(2)
    return (brightness > 0.05) & ((share == 0) | (share > 0.25)), (share > 0.25).astype(float)


def pca_features(
    train: np.ndarray, test: np.ndarray, components: int = 128
) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of raw pixels [R, ...], fitted on `train`: the features that need no network."""
    flat, other = (x.reshape(len(x), -1).astype(np.float32) for x in (train, test))
    pca = PCA(
        min(components, len(flat) - 1, flat.shape[1]), svd_solver="randomized", random_state=0
    ).fit(flat)
    return pca.transform(flat), pca.transform(other)


NEIGHBOURS = (1, 3, 5, 10, 20, 50)
BLOCK = 512  # rows that are compared with all training rows at once
TEMPERATURE = 0.07  # of the neighbours' votes, as in DINO


def chosen_linear_probe(
    kind: str,
    train: np.ndarray,
    target: np.ndarray,
    val: np.ndarray,
    val_target: np.ndarray,
    outputs: int = 1,
    balanced: bool = False,
) -> tuple[Callable[[np.ndarray], np.ndarray], dict[str, float]]:
    """A linear model on standardised features, its L2 penalty chosen on the validation rows. `balanced`: all classes
    count the same in its loss.

    Returns (predict, facts): `predict(features [R, D])` gives probabilities [R] or [R, outputs], or values [R]; facts
    are the penalty and the validation score. A class without training rows has probability 0.
    """
    scaler = StandardScaler().fit(train)
    scaled = scaler.transform(train).astype(np.float64)

    def fitted(strength: float) -> Callable[[np.ndarray], np.ndarray]:
        if kind == "regression":
            model = Ridge(strength).fit(scaled, target)
            return lambda features: model.predict(scaler.transform(features).astype(np.float64))
        # the second is quicker, but its matrix grows with the square of features x classes
        solver = "lbfgs" if kind == "multiclass" else "newton-cholesky"
        model = LogisticRegression(
            C=1 / strength,
            solver=solver,
            max_iter=10_000,
            class_weight="balanced" if balanced else None,
        )
        model.fit(scaled, target.astype(int))

        return lambda features: _probabilities(
            kind, model, scaler.transform(features).astype(np.float64), outputs
        )

    if kind != "regression" and len(np.unique(target)) < 2:
        raise ValueError("a linear probe needs two classes among its training radiographs")
    strengths = np.logspace(-1, 5, 13 if kind == "regression" else 7)
    tried = {strength: fitted(strength) for strength in steps(strengths, "linear probe", "penalty")}
    return _best(kind, tried, val, val_target, "l2")


def chosen_neighbour_probe(
    kind: str,
    train: np.ndarray,
    target: np.ndarray,
    val: np.ndarray,
    val_target: np.ndarray,
    outputs: int = 1,
    balanced: bool = False,
) -> tuple[Callable[[np.ndarray], np.ndarray], dict[str, float]]:
    """Nearest neighbours by cosine similarity s, each with the weight exp(s / 0.07) (DINO, arXiv 2104.14294, appendix
    F.2); their number is chosen on the validation rows. `balanced`: a vote counts less the more rows its class has.
    Returns as `chosen_linear_probe`."""
    unit = train / np.linalg.norm(train, axis=1, keepdims=True).clip(1e-12)
    votes = target[:, None] if kind == "regression" else np.eye(max(outputs, 2))[target.astype(int)]
    if balanced:
        votes = votes * (len(votes) / votes.sum(0).clip(1))

    def predictor(count: int) -> Callable[[np.ndarray], np.ndarray]:
        def of_block(features: np.ndarray) -> np.ndarray:
            similarity = (
                features @ unit.T / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
            )
            nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
            near = np.take_along_axis(similarity, nearest, 1)
            weights = np.exp((near - near[:, :1]) / TEMPERATURE)
            found = (weights[..., None] * votes[nearest]).sum(1)
            found /= (
                weights.sum(1, keepdims=True)
                if kind == "regression"
                else found.sum(1, keepdims=True)
            )
            return found if kind == "multiclass" else found[:, -1]

        def predict(
            features: np.ndarray,
        ) -> np.ndarray:  # in blocks: all pairs of a large set would fill the memory
            blocks = [features[row : row + BLOCK] for row in range(0, len(features), BLOCK)]
            title = f"{count} nearest neighbours"
            shown = portions(blocks, [len(block) for block in blocks], title, "radiograph")
            return np.concatenate([of_block(block) for block in shown])

        return predict

    tried = {count: predictor(count) for count in NEIGHBOURS if count <= len(train)}
    return _best(kind, tried, val, val_target, "neighbours")


def few_shot_probe(
    kind: str, train: np.ndarray, target: np.ndarray, unlabelled: np.ndarray, outputs: int = 1
) -> Callable[[np.ndarray], np.ndarray]:
    """A linear model from a few labels: logistic regression (or ridge) with penalty 1 on features that are centred by
    the mean of the `unlabelled` ones [U, D] and of unit length (centring: Wang et al., arXiv 1911.04623, section 3.2;
    the classifier: Tian et al., arXiv 2003.11539, section 3.1).

    Nothing is chosen on validation labels, which would be more labels than the shots (Perez et al., arXiv 2105.11447).
    Returns `predict` as `chosen_linear_probe`. ValueError for one class only.
    """
    centre = unlabelled.mean(0, dtype=np.float64)

    def prepared(features: np.ndarray) -> np.ndarray:
        moved = features - centre
        return moved / np.linalg.norm(moved, axis=1, keepdims=True).clip(1e-12)

    if kind == "regression":
        ridge = Ridge(1.0).fit(prepared(train), target)
        return lambda features: ridge.predict(prepared(features))
    if len(np.unique(target)) < 2:
        raise ValueError(
            "few shots: a linear model needs two classes among its training radiographs"
        )
    model = LogisticRegression(max_iter=1000).fit(prepared(train), target.astype(int))
    return lambda features: _probabilities(kind, model, prepared(features), outputs)


def _probabilities(kind: str, model, features: np.ndarray, outputs: int) -> np.ndarray:
    """[R] or [R, outputs] of a fitted classifier; 0 for a class that it has not seen."""
    found = np.zeros((len(features), max(outputs, 2)))
    found[:, model.classes_] = model.predict_proba(features)
    return found[:, 1] if kind == "binary" else found


def _best(
    kind: str, tried: dict, val: np.ndarray, val_target: np.ndarray, name: str
) -> tuple[Callable, dict]:
    """The predictor with the best validation score; the first of equals."""
    sign = 1 if kind == "regression" else -1
    candidates = steps(tried.items(), f"validation of {name}", "candidate")
    scores = {value: score(kind, val_target, predict(val)) for value, predict in candidates}
    best = min(
        scores, key=lambda value: math.inf if math.isnan(scores[value]) else sign * scores[value]
    )
    return tried[best], {name: float(best), "validation": scores[best]}
