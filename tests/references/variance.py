"""References of algorithms that correct the drift of clients: SCAFFOLD, FedNova, FedDyn, FedDC."""

from __future__ import annotations

import numpy as np
from references.averaging import add, descend, held, mean, minus, moved, share, zeros
from references.problem import Result


def scaffold(problem, cohorts, rate, weights="samples") -> Result:
    """Karimireddy et al., ICML 2020, Algorithm 1, option II; c and every c_i start at 0.

    w <- w - rate (grad - c_i + c); c_i+ = c_i - c + (received - w) / (k_i rate);
    x <- x + mean(w - received); c <- c + share mean(c_i+ - c_i) by name.
    """
    params, control = problem.initial, zeros(problem.initial)
    result = Result(memory={i: zeros(held(c, params)) for i, c in enumerate(problem.clients)})
    for cohort in cohorts:
        changes, controls = {}, {}
        for i in cohort:
            client, received, own = problem.clients[i], held(problem.clients[i], params), result.memory[i]
            drift = minus(held(client, control), own)
            w = descend(client, received, rate, lambda w, _: add(client.gradient(w), drift))  # noqa: B023
            changes[i] = minus(w, received)
            renewed = {k: own[k] - control[k] - changes[i][k] / (client.steps * rate) for k in own}
            controls[i], result.memory[i] = minus(renewed, own), renewed
        part = share(problem, cohort, weights)
        params = moved(params, mean(problem, changes, weights))
        control = moved(control, {k: part[k] * v for k, v in mean(problem, controls, weights).items()})
        result.params.append(params)
    result.extra["control"] = control
    return result


def normaliser(steps, rho=0.0):
    """Return |a_i|_1 of FedNova: k for plain SGD, (k - rho (1 - rho^k) / (1 - rho)) / (1 - rho) with momentum rho."""
    return (steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho)


def fednova(problem, cohorts, rate, weights="samples", rho=0.0) -> Result:
    """Wang et al., NeurIPS 2020: x <- x + tau_eff mean(change_i / |a_i|), tau_eff = mean(|a_i|), both by name.

    Clients run heavy ball from rest each round: v <- rho v + grad; w <- w - rate v (rho = 0: plain SGD).
    """
    result, params = Result(), problem.initial
    for cohort in cohorts:
        normalised, lengths = {}, {}
        for i in cohort:
            client, w = problem.clients[i], held(problem.clients[i], params)
            v, a = zeros(w), normaliser(client.steps, rho)
            for _ in range(client.steps):
                v = add(client.gradient(w), v, rho)
                w = add(w, v, -rate)
            normalised[i] = {k: (w[k] - params[k]) / a for k in w}
            lengths[i] = dict.fromkeys(w, a)
        tau = mean(problem, lengths, weights)
        params = moved(params, {k: tau[k] * v for k, v in mean(problem, normalised, weights).items()})
        result.params.append(params)
    return result


def feddyn(problem, cohorts, rate, weights="samples", alpha=0.1) -> Result:
    """Acar et al., ICLR 2021; h and every h_i start at 0.

    w <- w - rate (grad - h_i + alpha (w - received)); h_i <- h_i - alpha (w - received);
    h <- h - alpha share mean(w - received); x <- mean(w) - h / alpha. A name that nobody held stays, and so does its h.
    """
    params, server = problem.initial, zeros(problem.initial)
    result = Result(memory={i: zeros(held(c, params)) for i, c in enumerate(problem.clients)})
    for cohort in cohorts:
        ends, changes = {}, {}
        for i in cohort:
            client, received, own = problem.clients[i], held(problem.clients[i], params), result.memory[i]

            def direction(w, _, client=client, received=received, own=own):
                g = client.gradient(w)
                return {k: g[k] - own[k] + alpha * (w[k] - received[k]) for k in w}

            ends[i] = descend(client, received, rate, direction)
            changes[i] = minus(ends[i], received)
            result.memory[i] = add(own, changes[i], -alpha)
        part = share(problem, cohort, weights)
        server = moved(server, {k: -alpha * part[k] * v for k, v in mean(problem, changes, weights).items()})
        params = {**params, **{k: v - server[k] / alpha for k, v in mean(problem, ends, weights).items()}}
        result.params.append(params)
    result.extra["server"] = server
    return result


def feddc(problem, cohorts, rate, weights="samples", alpha=0.1, drifts="cohort", controls="updates") -> Result:
    """Gao et al., CVPR 2022; drifts h_i, local updates g_i and the server's g start at 0.

    Local objective: loss + alpha/2 |w + h_i - received|^2 + <w, g_i - g> / (rate k_i). The paper words g_i as "the
    local update value of the client in its last round" and g as "the average update value of all clients in the last
    round": g_i <- u_i = w - received, g <- mean(u_i) of the cohort (of a name that nobody held it stays). Then
    h_i <- h_i + u_i, and the server takes x <- mean(w + h_i), with the new h_i, over the cohort.

    The authors' code differs in two places, both on offer. drifts="all": x <- mean(w) + H, H the weighted mean of
    the drifts of ALL holders, whether in the cohort or not (H <- H + share mean(u_i)); with everybody taking part it
    is the same. controls="gradients": the term is <w, c - c_i> with SCAFFOLD's controls in place of updates,
    c_i <- c_i - c - u_i / (k_i rate), c <- c + share mean(c_i+ - c_i).

    They are not details. On the quadratics only the code's pair reaches the pooled optimum when some take part; the
    wording's updates, which contain their own correction, then diverge, and drifts of a cohort alone never settle.
    """
    params, total, common = problem.initial, zeros(problem.initial), zeros(problem.initial)
    blank = [zeros(held(c, params)) for c in problem.clients]
    result = Result(memory={i: {"drift": z, "update": z} for i, z in enumerate(blank)})
    for cohort in cohorts:
        ends, updates, news, sums = {}, {}, {}, {}
        for i in cohort:
            client, received, memory = problem.clients[i], held(problem.clients[i], params), result.memory[i]
            h, own, span = memory["drift"], memory["update"], client.steps * rate
            term = {k: (own[k] - common[k]) / span if controls == "updates" else common[k] - own[k] for k in own}

            def direction(w, _, client=client, received=received, h=h, term=term):
                g = client.gradient(w)
                return {k: g[k] + alpha * (w[k] + h[k] - received[k]) + term[k] for k in w}

            ends[i] = descend(client, received, rate, direction)
            updates[i] = minus(ends[i], received)
            new = updates[i]
            if controls == "gradients":
                new = {k: own[k] - common[k] - new[k] / span for k in own}
            news[i] = new if controls == "updates" else minus(new, own)
            result.memory[i] = {"drift": add(h, updates[i]), "update": new}
            sums[i] = add(ends[i], result.memory[i]["drift"])
        part, new = share(problem, cohort, weights), mean(problem, news, weights)
        common = {**common, **new} if controls == "updates" else moved(common, {k: part[k] * new[k] for k in new})
        total = moved(total, {k: part[k] * v for k, v in mean(problem, updates, weights).items()})
        whole = {k: v + total[k] for k, v in mean(problem, ends, weights).items()}
        params = {**params, **(mean(problem, sums, weights) if drifts == "cohort" else whole)}
        result.params.append(params)
    result.extra.update(update=common, drift=total)
    return result


def stationary(problem, params, weights="samples") -> float:
    """Return the largest entry of the pooled gradient at `params`: 0 at the pooled optimum."""
    gradients = {i: c.gradient(held(c, params)) for i, c in enumerate(problem.clients)}
    return max(float(np.abs(g).max()) for g in mean(problem, gradients, weights).values())
