"""FedRSCLIP on NWPU-RESISC45: 31,500 scenes of 45 classes, 10 clients with skewed classes, CLIP ViT-B/32.

Command: mmfl-jax run fedrsclip_nwpu --archive scenes:NWPU-RESISC45 --clip clip-vit-base-patch32
  The first is the archive as published, a folder a class; the second a folder with model.safetensors, config.json and
  tokenizer.json of CLIP ViT-B/32. Image features are computed at the first run and kept.
Result: not measured
"""

from mmfl_jax import Study

study = Study.of(
    name="fedrsclip_nwpu",
    archive="scenes:NWPU-RESISC45",
    clip="clip-vit-base-patch32",
    method="fedrsclip",
    partition="dirichlet:0.3",
    clients=10,
    test_split="0.2",
    rounds=50,
    local_epochs=1,
    batch_size=32,
    client_learning_rate=2e-3,
    learning_rate_schedule="cosine",
    evaluate_every=5,
)
