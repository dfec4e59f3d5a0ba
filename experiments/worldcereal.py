"""WorldCereal in Canada: 8 crops from Sentinel-1 and -2 series, 16 owners of whole regions with one sensor each.

Command: mmfl-jax run worldcereal --archive arrays:worldcereal_canada.npz
All five folds: mmfl-jax sweep worldcereal --archive arrays:worldcereal_canada.npz --vary method=unified,mf,mf+fw,mf+mim
  --folds test_split=by:region:0/5,by:region:1/5,by:region:2/5,by:region:3/5,by:region:4/5 --seeds 3 --run-dir OUT
Result: experiments/RESULTS.md
"""

from mmfl_jax import Study

study = Study.of(
    name="worldcereal",
    archive="arrays:worldcereal_canada.npz",
    modalities="s1,s2",
    partition="by:region",
    clients=16,
    test_split="by:region:0/5",
    method="mf+fw+mim",
    whitening_where="stem",
    whitening_moments="pooled",  # an owner's batch has the classes of its regions: its own moments would hide them
    width=256,
    norm="none",
    mim_weight=0.3,
    logit_calibration="share",
    calibration_strength=0.3,
    mask_dates=0.5,
    # One step a round on a server with Adam: clients of whole regions drift apart within even two epochs.
    rounds=500,
    local_steps=1,
    batch_size=32,
    client_optimizer="sgd",
    client_learning_rate=1.0,
    algorithm="fedadam:rate=1e-3:tau=1e-6",
    server_schedule="cosine",
    evaluate_every=50,
    checkpoint_every=250,
)
