"""The workloads' models as pure JAX functions of the engine's variables, for FedJAX (JAX 0.5)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import workloads

Array = jax.Array
Variables = dict[str, Array]


def _conv(x: Array, kernel: Array, stride: int = 1) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _dense(variables: Variables, path: str, x: Array) -> Array:
    return x @ variables[f"{path}/kernel"] + variables[f"{path}/bias"]


def _inverse_cholesky(covariance: Array) -> Array:
    size = covariance.shape[-1]
    factor = jnp.linalg.cholesky(covariance)
    identity = jnp.broadcast_to(jnp.eye(size), covariance.shape)
    return jax.lax.linalg.triangular_solve(factor, identity, left_side=True, lower=True)


def _running(old: Array, new: Array) -> Array:
    return (1 - workloads.MOMENTUM) * old + workloads.MOMENTUM * jax.lax.stop_gradient(new)


def _norm(variables: Variables, path: str, x: Array, moments: Variables) -> Array:
    """Return whitened or batch-normalised ``x``, whichever the variables are of; write new running moments."""
    flat = x.reshape(-1, x.shape[-1])
    mean = flat.mean(axis=0)
    scale, bias = variables[f"{path}/scale"], variables[f"{path}/bias"]
    moments[f"{path}/mean"] = _running(variables[f"{path}/mean"], mean)
    if f"{path}/var" in variables:
        var = (flat * flat).mean(axis=0) - mean * mean
        moments[f"{path}/var"] = _running(variables[f"{path}/var"], var)
        return (x - mean) * (jax.lax.rsqrt(var + 1e-5) * scale) + bias
    groups, size, _ = variables[f"{path}/cov"].shape
    centred = flat - mean
    full = centred.T @ centred / flat.shape[0]
    index = jnp.arange(groups)
    covariance = full.reshape(groups, size, groups, size)[index, :, index, :]
    moments[f"{path}/cov"] = _running(variables[f"{path}/cov"], covariance)
    shrunk = (1 - workloads.SHRINKAGE) * covariance + workloads.SHRINKAGE * jnp.eye(size)
    matrix = jnp.eye(groups)[:, None, :, None] * _inverse_cholesky(shrunk)[:, :, None, :]
    matrix = matrix.reshape(groups * size, groups * size) * scale[:, None]
    return (centred @ matrix.T + bias).reshape(x.shape)


def _resnet(variables: Variables, path: str, x: Array, moments: Variables) -> Array:
    x = jax.nn.relu(_norm(variables, f"{path}/stem_norm", _conv(x, variables[f"{path}/stem/kernel"]), moments))
    number = 0
    for count, _, first in workloads.STAGES:
        for i in range(count):
            block, stride = f"{path}/blocks/{number}", first if i == 0 else 1
            y = _conv(x, variables[f"{block}/convs/0/kernel"], stride)
            y = jax.nn.relu(_norm(variables, f"{block}/norms/0", y, moments))
            y = _norm(variables, f"{block}/norms/1", _conv(y, variables[f"{block}/convs/1/kernel"]), moments)
            if f"{block}/shortcut/kernel" in variables:
                x = _conv(x, variables[f"{block}/shortcut/kernel"], stride)
                x = _norm(variables, f"{block}/shortcut_norm", x, moments)
            x, number = jax.nn.relu(y + x), number + 1
    return x.mean(axis=(1, 2))


def _pool(x: Array) -> Array:
    # Maxima over a reshape: the gradient of reduce_window is a scatter, several times slower on a CPU.
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


def forward(work: workloads.Workload, modality: str, variables: Variables, x: Array) -> tuple[Array, Array, Variables]:
    """Return logits, MIM's projections (empty without MIM) and the new running moments.

    Args:
      work: the workload.
      modality: of the client.
      variables: parameters and running moments that the client holds.
      x: ``[batch, *shape]``.
    """
    moments: Variables = {}
    z = jnp.zeros((len(x), 0))
    if work.model == "cnn":
        for name in ("conv1", "conv2"):
            x = _pool(jax.nn.relu(_conv(x, variables[f"{name}/kernel"]) + variables[f"{name}/bias"]))
        x = jax.nn.relu(_dense(variables, "dense", x.reshape(len(x), -1)))
    elif work.model == "mlp":
        x = x.reshape(len(x), -1)
        for name in ("first", "second"):
            x = jax.nn.relu(_dense(variables, f"encoders/{modality}/{name}", x))
    else:
        x = _resnet(variables, f"encoders/{modality}", x, moments)
        projector = f"projectors/{modality}"
        z = _dense(variables, f"{projector}/out", jax.nn.relu(_dense(variables, f"{projector}/hidden", x)))
        z = z * jax.lax.rsqrt(jnp.maximum((z * z).sum(axis=-1, keepdims=True), 1e-12))
    return _dense(variables, "head", x), z, moments


def loss(work: workloads.Workload, logits: Array, z: Array, labels: Array, keys: Array | None) -> Array:
    """Return the local loss: the task's, and MIM's against the prototypes ``keys`` of the other modality."""
    labels = labels.astype(logits.dtype)
    if work.task == "multiclass":
        return -(labels * jax.nn.log_softmax(logits)).sum(axis=-1).mean()
    task = (jax.nn.softplus(logits) - labels * logits).mean()
    if keys is None:
        return task
    similarity = z @ keys.T / workloads.TEMPERATURE
    positives = jax.nn.logsumexp(jnp.where(labels > 0, similarity, -1e30), axis=1)
    counted = (labels > 0).any(axis=1)
    terms = jnp.where(counted, jax.nn.logsumexp(similarity, axis=1) - positives, 0.0)
    return task + workloads.MIM_WEIGHT * terms.sum() / jnp.maximum(counted.sum(), 1)
