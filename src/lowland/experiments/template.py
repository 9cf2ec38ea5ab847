"""SAM against SGD on 500 handwritten digits. `lowland run FILE` runs it, `lowland sweep FILE` goes through its grid."""

from lowland.data import load
from lowland.experiments import Claim, Experiment, defaults, last, reached, smaller, supervised
from lowland.models import mlp

digits = load("digits").train  # your own data: (x, y) as tensors, a torch Dataset, or a DataLoader
x, y = digits.inputs.flatten(1) / 16, digits.targets
train, validation, test = (x[:500], y[:500]), (x[500:800], y[500:800]), (x[800:], y[800:])


def build(settings):
    """What one run trains. The seed is set before, so that initial weights follow from it."""
    model = mlp([64, settings.width, 10])  # your own network: any torch module
    return supervised(model, settings, train, validation, test)


EXPERIMENT = Experiment(
    title="SAM against SGD on 500 handwritten digits",
    build=build,
    # Each can be changed by --set; seeds = 5 trains every arm five times. Steps follow from epochs and examples.
    settings=defaults(lr=0.1, rho=0.4, momentum=0.9, batch_size=50, epochs=40, examples=500, seeds=5, width=100),
    arms={"sam": {}, "sgd": {"rho": 0.0}},  # what is compared: the settings that make each arm
    grid={"rho": (0.0, 0.1, 0.2, 0.4, 0.8), "seed": (0, 1, 2)},  # what `lowland sweep` trains
    claims=(
        Claim(
            id="lower-test-error",
            text="SAM's test error is below SGD's: mean difference, paired by seed",
            source="ours; rho was chosen by validation error",
            threshold="interval < 0",  # the whole 95 % interval over seeds
            judge=smaller("sam", "sgd", last("test_error")),
            # Only networks that fit their training data count; of others the claim stays undecided.
            regime=reached("sgd", last("train_error"), 0.0, "SGD's training error"),
            over_seeds=True,
        ),
    ),
)
