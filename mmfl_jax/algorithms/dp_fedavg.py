"""Client-level differential privacy: clip, add noise, weigh all clients alike."""

from __future__ import annotations

import functools
from typing import Any

import jax

from mmfl_jax.algorithms.algorithm import Aggregate, Algorithm, Params
from mmfl_jax.algorithms.checks import all_of
from mmfl_jax.algorithms.setting import Setting
from mmfl_jax.algorithms.transforms import chain, clip
from mmfl_jax.errors import UserError


def dp_fedavg(
    algorithm: Algorithm, clip_norm: float = 1.0, noise: float = 1.0, delta: float = 1e-5, epsilon: float = 0.0
) -> Algorithm:
    """Modifier: what the model tells of any one client is bounded by (epsilon, delta).

    ``x <- x + (sum_S D_i min(1, clip_norm / ||D_i||) + N(0, (noise clip_norm)^2)) / (q N)``, ``q`` the probability
    that a client takes part, ``N`` the holders of the parameter. Epsilon is dp-accounting's, of Poisson sampling by
    RDP.

    Travels: as before. Use it when a model is to be published; it needs many clients.

    Args:
      clip_norm: C, the norm of a client's whole message at most.
      noise: z, the noise's standard deviation over C.
      delta: of the guarantee.
      epsilon: a target that the study's rounds must not exceed; 0 for none.

    References:
      McMahan et al., "Learning Differentially Private Recurrent Language Models", ICLR 2018.
    """
    if clip_norm < 0 or noise < 0 or not 0 < delta < 1:
        raise UserError(
            f"--algorithm dp_fedavg: clip_norm and noise must not be negative and delta lie in (0, 1), not "
            f"{clip_norm}, {noise}, {delta}"
        )
    privacy = functools.partial(guarantee, noise if clip_norm else 0.0, delta)
    plain = Algorithm(transform=algorithm.transform)
    if algorithm._replace(loss=plain.loss, update=plain.update) != plain:
        raise UserError("--algorithm dp_fedavg: only FedAvg and FedProx send nothing but one clipped change")

    def update(aggregate: Aggregate, state: Any, params: Params) -> tuple[Params, Any]:
        new = {}
        for i, (n, p) in enumerate(sorted(params.items())):
            total = aggregate.value["change"][n] * aggregate.clients[n]
            if noise and clip_norm:
                key = jax.random.fold_in(aggregate.key, i)
                total += noise * clip_norm * jax.random.normal(key, p.shape)
            expected = aggregate.sampling * aggregate.population[n]
            new[n] = p + aggregate.rate * total / expected
        return new, state

    def check(setting: Setting) -> None:
        _check(setting)
        cost = privacy(setting.rounds, setting.rate or 1.0)["epsilon"] if epsilon else 0.0
        if cost > epsilon:
            raise UserError(
                f"--algorithm dp_fedavg: {setting.rounds} rounds at noise {noise} cost epsilon {cost:.3g}, more than "
                f"the target {epsilon}; give more noise, fewer rounds or a smaller --participation"
            )

    return algorithm._replace(
        transform=chain(algorithm.transform, clip(clip_norm)) if clip_norm else algorithm.transform,
        update=update,
        weighting="uniform",
        keeps_unseen=False,
        privacy=privacy,
        check=all_of(algorithm.check, check),
    )


def _check(setting: Setting) -> None:
    if setting.weighting != "uniform":
        raise UserError(
            "--algorithm dp_fedavg: with weights by samples a client's part has no bound; --weighting uniform"
        )
    if setting.rate is None:
        raise UserError(
            "--algorithm dp_fedavg: its accounting needs clients that take part by chance; --participation 0.1"
        )
    if setting.statistics:
        raise UserError(
            "--algorithm dp_fedavg: running moments would travel without noise; --norm group or --private norm"
        )
    if setting.sums:
        raise UserError(
            f"--algorithm dp_fedavg: the sums of {', '.join(setting.sums)} would travel without noise; leave it out"
        )


def guarantee(noise: float, delta: float, rounds: int, rate: float) -> dict[str, float]:
    """Return ``epsilon`` and ``delta`` of rounds with Poisson sampling (dp-accounting's RDP accountant).

    Args:
      noise: multiplier z.
      delta: of the guarantee.
      rounds: how many.
      rate: the probability that a client takes part.
    """
    if not noise:
        return {"epsilon": float("inf"), "delta": delta}
    try:
        import dp_accounting
        from dp_accounting.rdp import RdpAccountant
    except ModuleNotFoundError:
        raise UserError("--algorithm dp_fedavg needs dp-accounting: pip install 'mmfl_jax[privacy]'") from None
    if not rounds:
        return {"epsilon": 0.0, "delta": delta}
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    accountant = RdpAccountant().compose(dp_accounting.SelfComposedDpEvent(event, rounds))
    return {"epsilon": float(accountant.get_epsilon(delta)), "delta": delta}
