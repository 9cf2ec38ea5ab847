"""Linear classifiers on standardized features, fitted by scikit-learn."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from lowland.features.examples import Examples


@dataclass(frozen=True, eq=False)
class Classifier:
    """A linear classifier. With two classes there is one row, the score of the second; the score of the first is 0.

    Attributes:
        classes: in ascending order.
        weight: ``(classes, features)``, or ``(1, features)`` for two.
        bias: ``(classes,)`` or ``(1,)``.
        converged: whether the optimizer converged.
    """

    classes: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    converged: bool

    def predict(self, part: Examples) -> np.ndarray:
        """The class of the highest score, ``(n,)``."""
        predicted: np.ndarray = self.classes[self._scores(part).argmax(1)]
        return predicted

    def log_losses(self, part: Examples) -> np.ndarray:
        """−log softmax of the score of the true class, ``(n,)``."""
        scores = self._scores(part)
        scores -= scores.max(1, keepdims=True)
        true = np.searchsorted(self.classes, part.targets)
        losses: np.ndarray = np.log(np.exp(scores).sum(1)) - scores[np.arange(len(true)), true]
        return losses

    def _scores(self, part: Examples) -> np.ndarray:
        logits = (part.features @ self.weight.T + self.bias).astype(np.float64)
        return logits if len(self.bias) > 1 else np.concatenate([np.zeros_like(logits), logits], 1)


def mean(classifiers: list[Classifier]) -> Classifier:
    """The classifier with the mean weights and biases of ``classifiers``, which have the same classes."""
    return Classifier(
        classifiers[0].classes,
        np.mean([each.weight for each in classifiers], 0),
        np.mean([each.bias for each in classifiers], 0),
        all(each.converged for each in classifiers),
    )


def standardized(reference: Examples, *others: Examples) -> list[Examples]:
    """All parts, standardized by ``reference``: minus its mean, over its standard deviation, or over 1 if that is 0."""
    from sklearn.preprocessing import StandardScaler  # here, because importing it takes a second

    scaler = StandardScaler().fit(reference.features)
    return [replace(each, features=scaler.transform(each.features)) for each in (reference, *others)]


def in_their_span(reference: Examples, *others: Examples) -> list[Examples]:
    """All parts in coordinates of the span of ``reference``'s features, if it has more features than examples.

    The minimizer of a loss with an L2 penalty lies in that span, since an orthogonal component changes no score but
    raises the penalty. So the classifier is the same, with fewer numbers.
    """
    n, features = reference.features.shape
    if features <= n:
        return [reference, *others]
    basis = np.linalg.qr(reference.features.T)[0]
    return [replace(each, features=each.features @ basis) for each in (reference, *others)]


def regularization_path(
    part: Examples,
    Cs: Iterable[float],
    *,
    penalty: str,
    weights: np.ndarray | None = None,
    max_iter: int,
    seed: int,
) -> Iterator[tuple[float, Classifier]]:
    """Logistic regression for each C of ``Cs``; L-BFGS starts from the solution for the previous C.

    L1 is solved by liblinear for two classes, which penalizes the bias, too, and by SAGA for more.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=max_iter, random_state=seed, warm_start=True)
    if penalty == "l1":
        # scikit-learn 1.8 introduced the one spelling and deprecated the other.
        one = {"l1_ratio": 1.0} if model.penalty == "deprecated" else {"penalty": "l1"}
        model.set_params(solver="liblinear" if len(np.unique(part.targets)) == 2 else "saga", **one)
    for C in Cs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # `converged` says so
            model.set_params(C=C).fit(part.features, part.targets, sample_weight=weights)
        converged = bool(np.max(model.n_iter_) < max_iter)
        yield C, Classifier(model.classes_, model.coef_, model.intercept_, converged)
