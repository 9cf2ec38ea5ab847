"""Linear classifiers on standardized features."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from lowland.features.examples import Examples


@dataclass(frozen=True, eq=False)
class Classifier:
    """Of two classes the score of the first is 0, and there is one row for the second.

    Attributes:
        classes: in ascending order.
        weight: ``(classes, features)``, or ``(1, features)`` for two.
        bias: ``(classes,)`` or ``(1,)``.
        converged: whether the optimizer was done.
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
    """The one with their mean weights and biases, of the same classes."""
    return Classifier(
        classifiers[0].classes,
        np.mean([each.weight for each in classifiers], 0),
        np.mean([each.bias for each in classifiers], 0),
        all(each.converged for each in classifiers),
    )


def standardized(reference: Examples, *others: Examples) -> list[Examples]:
    """The parts, features minus their mean in ``reference``, by their standard deviation there, or by 1 if it's 0."""
    from sklearn.preprocessing import StandardScaler  # here, because importing it takes a second

    scaler = StandardScaler().fit(reference.features)
    return [replace(each, features=scaler.transform(each.features)) for each in (reference, *others)]


def in_their_span(reference: Examples, *others: Examples) -> list[Examples]:
    """The parts in coordinates of the space that the features of ``reference`` span, if they are more than examples.

    The weights that minimize a loss of the scores with an L2 penalty lie in that space, since whatever stands
    orthogonally to it changes no score and costs: the classifier is the same, of fewer numbers.
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
    """Logistic regression for each C of ``Cs``, which L-BFGS starts where the one before ended.

    L1 is solved by liblinear for two classes, which penalizes the bias, too, and by SAGA for more.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=max_iter, random_state=seed, warm_start=True)
    if penalty == "l1":
        # scikit-learn 1.8 took the one spelling up and the other down.
        one = {"l1_ratio": 1.0} if model.penalty == "deprecated" else {"penalty": "l1"}
        model.set_params(solver="liblinear" if len(np.unique(part.targets)) == 2 else "saga", **one)
    for C in Cs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it's in the result
            model.set_params(C=C).fit(part.features, part.targets, sample_weight=weights)
        converged = bool(np.max(model.n_iter_) < max_iter)
        yield C, Classifier(model.classes_, model.coef_, model.intercept_, converged)
