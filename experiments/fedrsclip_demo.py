"""FedRSCLIP offline: prompts on a small CLIP that is trained here, classes that this CLIP never saw among them.

Command: mmfl-jax run fedrsclip_demo
Time: 57 s of processor time with --rounds 8 --evaluate-every 8 (JAX 0.10.2, a shared Intel Xeon); the first time, CLIP
  is trained too, which takes longer than the rest
Result: experiments/RESULTS.md
"""

from mmfl_jax import Study

study = Study.of(
    name="fedrsclip_demo",
    archive="twinscenes",
    samples=2000,
    clip="small",  # trained on half of the classes at its first use, then kept
    method="fedrsclip",
    partition="dirichlet:0.3",
    clients=20,
    test_split="0.75",  # some 25 training scenes a client: more, and each does as well alone
    rounds=15,
    local_epochs=4,
    batch_size=32,
    client_learning_rate=3e-2,
    learning_rate_schedule="cosine",
    evaluate_every=3,
)
