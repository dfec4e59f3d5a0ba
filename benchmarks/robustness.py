"""Measure what hostile clients cost under each rule that puts messages together, on WorldCereal.

    python benchmarks/robustness.py worldcereal_canada.npz [--partition iid] [--shares 0.1 0.2 0.4] [--seeds 3]
        [--rules median norm_clip:1] [--output FILE]

A row for each seed, rule, attack and share of hostile clients: accuracy and macro-F1 with both sensors, and the
difference to FedAvg without attack of the same seed, in points. A run that diverges has no scores, but says why;
clients left out are counted.
"""

from __future__ import annotations

from common import emit, host, parser, use_devices

from mmfl_jax import Simulation, UserError
from mmfl_jax.study import Study, load_study

ATTACKS = ("nan", "large", "sign_flip", "label_flip")
RULES = ("fedavg", "norm_clip:1", "median", "trimmed_mean:0.4", "krum:bad=2", "multi_krum:bad=2:keep=4")


def base(archive: str) -> Study:
    """Return the study: plain FedAvg of MF, one epoch a round."""
    study = load_study("worldcereal").replace(archive=f"arrays:{archive}", method="mf", server_schedule="constant")
    return study.replace(rounds=60, local_steps=0, local_epochs=1, client_learning_rate=0.1, name="robustness")


def scores(study: Study) -> dict[str, float | int | str]:
    """Return the scores after the last round, and how many clients were left out; why, where the run failed."""
    try:
        summary = Simulation(study).run()
    except UserError as error:
        return {"failed": str(error)}
    found, skipped = summary["evaluation"]["s1+s2"], summary["skipped_clients"]
    return {"skipped_clients": skipped, "accuracy": found["accuracy"], "f1_macro": found["f1_macro"]}


def main() -> None:
    """Print a row for each seed, rule, attack and share."""
    options = parser(__doc__)
    options.add_argument("archive")
    options.add_argument("--partition", default="by:region", help="by:region: owners of whole regions; iid: all alike")
    options.add_argument("--shares", type=float, nargs="+", default=[0.2])
    options.add_argument("--rules", nargs="+", default=RULES)
    options.add_argument("--seeds", type=int, default=3)
    args = options.parse_args()
    use_devices(args.devices)
    for seed in range(args.seeds):
        study = base(args.archive).replace(partition=args.partition, seed=seed)
        clean: float | None = None
        # FedAvg without attack goes first: what all others are compared with.
        for rule in dict.fromkeys(("fedavg", *args.rules)):
            trials = [("none", 0.0), *((attack, share) for attack in ATTACKS for share in args.shares)]
            for attack, share in trials if rule in args.rules else trials[:1]:
                row = {"benchmark": "robustness", "partition": args.partition, "share": share, "seed": seed}
                row |= {"rule": rule, "attack": attack}
                row |= scores(study.replace(algorithm=rule, attack=attack, malicious=share))
                if "accuracy" in row:
                    clean = row["accuracy"] if clean is None else clean
                    row["points"] = round(100 * (row["accuracy"] - clean), 1)
                emit(row | host(), args.output)


if __name__ == "__main__":
    main()
