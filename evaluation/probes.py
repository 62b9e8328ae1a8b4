"""What frozen features know: linear probes on cached features, by the metric that fits the task.

R radiographs (rows), D features.
"""

import numpy as np

from evaluation.neighbours import patches_of


def linear_probe(
    kind: str, train: np.ndarray, target: np.ndarray, test: np.ndarray, patients: np.ndarray | None = None
) -> np.ndarray:
    """Fit on standardised features [R, D], predict for `test`: probabilities or values as `evaluation.metrics` takes
    them.

    The strength of the L2 penalty is chosen by cross-validation on the training rows, 5-fold (3-fold below 100 rows),
    with all rows of one of the `patients` [R] in the same fold.
    """
    from sklearn.linear_model import LogisticRegressionCV, RidgeCV
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    groups, count = np.arange(len(train)) if patients is None else patients, 3 if len(train) < 100 else 5
    if kind == "regression":
        splits = list(GroupKFold(count).split(train, target, groups))
        model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 5, 13), cv=splits))
        return model.fit(train, target).predict(test)
    folds = list(StratifiedGroupKFold(count, shuffle=True, random_state=0).split(train, target.astype(int), groups))
    logistic = LogisticRegressionCV(
        Cs=np.logspace(-4, 0, 5), cv=folds, scoring="neg_log_loss", solver="newton-cholesky", l1_ratios=(0.0,),
        use_legacy_attributes=False,
    )  # fmt: skip
    model = make_pipeline(StandardScaler(), logistic).fit(train, target.astype(int))
    probabilities = model.predict_proba(test)
    return probabilities[:, 1] if kind == "binary" else probabilities


def patch_targets(masks: np.ndarray, images: np.ndarray, patch: int) -> tuple[np.ndarray, np.ndarray]:
    """(use, target), both [R, N]: which patches of `images` [R, h, w] count, and which show a finding of `masks`.

    A patch is positive if more than a quarter of it is finding and negative without any; those at a finding's rim, and
    empty ones (mean below 0.05), do not count.
    """
    share, brightness = patches_of(masks, patch).mean(2), patches_of(images, patch).mean(2)
    return (brightness > 0.05) & ((share == 0) | (share > 0.25)), (share > 0.25).astype(float)


def pca_features(train: np.ndarray, test: np.ndarray, components: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of raw pixels [R, ...], fitted on `train`: the features that need no network."""
    from sklearn.decomposition import PCA

    flat, other = (x.reshape(len(x), -1).astype(np.float32) for x in (train, test))
    pca = PCA(min(components, len(flat) - 1, flat.shape[1]), svd_solver="randomized", random_state=0).fit(flat)
    return pca.transform(flat), pca.transform(other)
