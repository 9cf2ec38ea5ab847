"""How close to its edge the Hessian norm settles on the digits, over seeds.

    python benchmarks/edge_of_stability.py [--seeds 4]

Median over the second half of training of |norm/edge − 1|, for SAM against the SAM edge and for gradient descent
at η = 12 against 2/η.
"""

import argparse
import tempfile
from pathlib import Path

from common import describe_machine
from lowland import training
from lowland.papers import find


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    experiment, device = find("long2024/digits"), training.choose_device("cpu")
    print(describe_machine())
    for seed in range(parser.parse_args().seeds):
        arms = experiment.configure("laptop", {"seed": str(seed)})
        config = training.configuration(experiment, "laptop", arms, device)
        with tempfile.TemporaryDirectory() as folder, training.RunDirectory(Path(folder) / "run", config) as directory:
            trained = training.train(experiment, arms, directory, device)
        measured = {claim.id: claim.judge(trained).measured for claim in experiment.claims}
        print(f"seed {seed}: SAM {measured['sam-edge']:.4f}, gradient descent {measured['gd-edge']:.4f}", flush=True)


if __name__ == "__main__":
    main()
