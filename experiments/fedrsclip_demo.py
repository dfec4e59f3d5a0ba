"""FedRSCLIP offline: prompts on a small CLIP that is trained here, classes that this CLIP never saw among them.

Command: mmfl-jax run fedrsclip_demo
"""

from mmfl_jax import Study

study = Study(
    name="fedrsclip_demo",
    archive="twinscenes",
    samples=2000,
    clip="small",  # trained on half of the classes at its first use, then kept
    algorithm="fedrsclip",
    partition="dirichlet:0.1",
    clients=20,
    test_split="0.5",
    rounds=15,
    local_epochs=2,
    batch_size=32,
    client_learning_rate=1e-2,
    learning_rate_schedule="cosine",
    evaluate_every=2,
)
