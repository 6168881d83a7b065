"""The pruning methods written out slowly in float64 NumPy: the oracle of the other tests.

Sources: PINS, Ren & Zhu 2023 (arXiv 2305.12394); PLATON, Zhang et al. 2022 (arXiv 2206.12562);
cubic schedule as in Sanh et al. 2020 (arXiv 2005.07683). "Released" is what the published code of
a paper does where that differs from its text.

A score watches one matrix: call `observe` once per successful optimizer step, steps counted from
0, with theta the weight before the optimizer's update, theta_hat the weight after it and before
masking, and grad the gradient before the step. Higher scores survive. Masks are True where kept.
"""

from itertools import combinations
from math import fsum, nan

import numpy as np


def first_order(grad, theta_hat):
    """-g theta_hat: to first order, how much keeping a weight lowers the loss (PINS)."""
    return -grad * theta_hat


def first_order_sgd(theta, grad, lr):
    """-g theta + lr g^2: the same with theta_hat = theta - lr g put in (PINS as printed)."""
    return -grad * theta + lr * grad**2


class Score:
    """Casts to float64 and hands over to `update`; subclasses say what is remembered."""

    def observe(self, step, theta, grad, theta_hat, lr):
        # Copies: the caller may go on to change its weights in place.
        theta, grad, theta_hat = (np.array(x, dtype=np.float64) for x in (theta, grad, theta_hat))
        self.update(step, theta, grad, theta_hat, float(lr))


class Magnitude(Score):
    """|theta_hat|."""

    def update(self, step, theta, grad, theta_hat, lr):
        self.theta_hat = theta_hat

    def score(self):
        return np.abs(self.theta_hat)


class Fisher(Score):
    """vhat theta_hat^2, where v <- beta2 v + (1-beta2) g^2 and vhat = v / (1 - beta2^count).

    The second-order term of the loss, with Adam's second moment as the diagonal Hessian.
    """

    def __init__(self, beta2=0.999):
        self.beta2, self.v, self.count = beta2, 0.0, 0

    def update(self, step, theta, grad, theta_hat, lr):
        self.v = self.beta2 * self.v + (1 - self.beta2) * grad**2
        self.count += 1
        self.theta_hat = theta_hat

    def score(self):
        return self.v / (1 - self.beta2**self.count) * self.theta_hat**2


class Averaged(Score):
    """mean <- smoothing mean + (1-smoothing) s, from 0; smoothing 0 is the last s alone."""

    def __init__(self, smoothing=0.0):
        self.smoothing, self.mean = smoothing, 0.0

    def update(self, step, theta, grad, theta_hat, lr):
        s = self.saliency(theta, grad, theta_hat, lr)
        self.mean = self.smoothing * self.mean + (1 - self.smoothing) * s

    def score(self):
        return self.mean.copy()


class Windowed(Score):
    """Importance times uncertainty over windows of steps, as released for PLATON and PINS.

    k = step mod window. For k = 0 the window that just ended is folded in,
        importance  <- beta1 importance  + (1-beta1) window_mean
        uncertainty <- beta2 uncertainty + (1-beta2) |window_mean - importance|  (the new one)
    and window_mean <- s; otherwise window_mean <- (k window_mean + s) / (k + 1).
    Every score is 0 until the first window is folded in, at step = window: do not select before.
    """

    def __init__(self, beta1, beta2, window):
        self.beta1, self.beta2, self.window = beta1, beta2, window
        self.window_mean = None

    def update(self, step, theta, grad, theta_hat, lr):
        s = self.saliency(theta, grad, theta_hat, lr)
        if self.window_mean is None:
            self.window_mean = np.zeros_like(s)
            self.importance_ema = np.zeros_like(s)
            self.uncertainty_ema = np.zeros_like(s)
        k = step % self.window
        if k == 0:
            a, b, mean = self.beta1, self.beta2, self.window_mean
            self.importance_ema = a * self.importance_ema + (1 - a) * mean
            deviation = np.abs(mean - self.importance_ema)
            self.uncertainty_ema = b * self.uncertainty_ema + (1 - b) * deviation
            self.window_mean = s
        else:
            self.window_mean = (k * self.window_mean + s) / (k + 1)

    def score(self):
        return self.importance_ema * self.uncertainty_ema


class Sensitivity(Averaged):
    """|theta g|."""

    def saliency(self, theta, grad, theta_hat, lr):
        return np.abs(theta * grad)


class PLATON(Windowed):
    """|theta g|, windowed (Zhang et al. 2022)."""

    def __init__(self, beta1=0.85, beta2=0.95, window=10):
        super().__init__(beta1, beta2, window)

    def saliency(self, theta, grad, theta_hat, lr):
        return np.abs(theta * grad)


class PLATONReleased(PLATON):
    """|theta_hat g|, windowed: the released code scores after the optimizer's step."""

    def saliency(self, theta, grad, theta_hat, lr):
        return np.abs(theta_hat * grad)


class PINS(Windowed):
    """|g theta_hat|, windowed (Ren & Zhu 2023, for the update the optimizer really made)."""

    def __init__(self, beta1=0.85, beta2=0.99, window=10):
        super().__init__(beta1, beta2, window)

    def saliency(self, theta, grad, theta_hat, lr):
        return np.abs(first_order(grad, theta_hat))


class PINSSgd(PINS):
    """|-g theta + lr g^2|, windowed (Ren & Zhu 2023)."""

    def saliency(self, theta, grad, theta_hat, lr):
        return np.abs(first_order_sgd(theta, grad, lr))


class PINSReleased(PINSSgd):
    """The score of the released code; it differs from PINSSgd only in its cut, `released_cut`."""


class PINSSigned(Averaged):
    """-g theta_hat: the literal solution of the 0-1 programme (Ren & Zhu 2023)."""

    def saliency(self, theta, grad, theta_hat, lr):
        return first_order(grad, theta_hat)


class PINSSignedSgd(Averaged):
    """-g theta + lr g^2: the literal solution as printed, for plain SGD (Ren & Zhu 2023)."""

    def saliency(self, theta, grad, theta_hat, lr):
        return first_order_sgd(theta, grad, lr)


def _ramp(step, final, begin, end, initial, power):
    if end <= begin:
        raise ValueError(f"the ramp must end after it begins, got begin={begin}, end={end}")
    if step <= begin:
        return initial
    if step >= end:
        return final
    return final + (initial - final) * (1 - (step - begin) / (end - begin)) ** power


def cubic(step, final, begin, end, initial=0.0):
    """Sparsity s_f + (s_0 - s_f) (1 - (t - begin) / (end - begin))^3, flat outside the ramp."""
    return _ramp(step, final, begin, end, initial, 3)


def linear(step, final, begin, end, initial=0.0):
    """Sparsity on a straight line from `initial` at `begin` to `final` at `end`."""
    return _ramp(step, final, begin, end, initial, 1)


def updates(step, begin, end, every, after):
    """Whether masks are selected anew at `step`.

    Inside begin < step < end: when step is divisible by `every`. "freeze": once more at `end`,
    then never. "reselect", as released: at `end` only if divisible, then at every step.
    """
    if after not in ("freeze", "reselect"):
        raise ValueError(f"after must be 'freeze' or 'reselect', got {after!r}")
    if step <= begin:
        return False
    if step < end:
        return step % every == 0
    if step == end:
        return after == "freeze" or step % every == 0
    return after == "reselect"


def _entries(scores):
    """(name, index, score) of every entry, matrices in dict order, each in row-major order."""
    return [
        (name, i, float(x)) for name, matrix in scores.items() for i, x in np.ndenumerate(matrix)
    ]


def _lowest(values, positions, count):
    """The `count` positions of lowest value; among equals the latest go, the earliest survive."""
    positions = list(positions)
    if count > len(positions):
        raise ValueError(f"cannot prune {count} of {len(positions)} candidates")
    return sorted(positions, key=lambda p: (values[p], -p))[:count]


def _masks(scores, pruned):
    keep = {name: np.ones(np.shape(matrix), dtype=bool) for name, matrix in scores.items()}
    for name, index in pruned:
        keep[name][index] = False
    return keep


def _each_alone(scores, select):
    return {name: select({name: matrix})[name] for name, matrix in scores.items()}


def select_global(scores, sparsity):
    """Prune exactly round(sparsity n) lowest over all matrices; of equals the earliest survive."""
    entries = _entries(scores)
    values = [value for _, _, value in entries]
    pruned = _lowest(values, range(len(entries)), round(sparsity * len(entries)))
    return _masks(scores, [entries[p][:2] for p in pruned])


def select_per_matrix(scores, sparsity):
    """`select_global` in each matrix on its own."""
    return _each_alone(scores, lambda one: select_global(one, sparsity))


def select_nm(scores, sparsity, n, m, scope="global"):
    """Prune only what keeps the n best of every m consecutive inputs; matrices are [out, in].

    Candidates are the m-n lowest of every group. Of these the round(sparsity entries) lowest go,
    over all matrices or in each. Only sparsity (m-n)/m makes every group n:m.
    """
    if scope == "matrix":
        return _each_alone(scores, lambda one: select_nm(one, sparsity, n, m))
    if scope != "global":
        raise ValueError(f"scope must be 'global' or 'matrix', got {scope!r}")
    _check_tiling(scores, 1, m)
    entries = _entries(scores)
    values = [value for _, _, value in entries]
    groups = {}
    for position, (name, (row, column), _) in enumerate(entries):
        groups.setdefault((name, row, column // m), []).append(position)
    candidates = [p for group in groups.values() for p in _lowest(values, group, m - n)]
    pruned = _lowest(values, candidates, round(sparsity * len(entries)))
    return _masks(scores, [entries[p][:2] for p in pruned])


def select_block(scores, sparsity, h, w, scope="global"):
    """Prune exactly round(sparsity blocks) blocks of h rows x w columns of lowest mean score.

    Of equal blocks the earliest survive: matrices in dict order, blocks in row-major order.
    """
    if scope == "matrix":
        return _each_alone(scores, lambda one: select_block(one, sparsity, h, w))
    if scope != "global":
        raise ValueError(f"scope must be 'global' or 'matrix', got {scope!r}")
    _check_tiling(scores, h, w)
    blocks = {}  # entries come in row-major order, so blocks are met in row-major order too
    for name, (row, column), value in _entries(scores):
        blocks.setdefault((name, row // h, column // w), []).append(((name, (row, column)), value))
    members = list(blocks.values())
    # fsum is exact whatever the order, so blocks of the same numbers tie.
    means = [fsum(value for _, value in block) / (h * w) for block in members]
    pruned = _lowest(means, range(len(members)), round(sparsity * len(members)))
    return _masks(scores, [place for p in pruned for place, _ in members[p]])


def _check_tiling(scores, h, w):
    for name, matrix in scores.items():
        rows, columns = np.shape(matrix)
        if rows % h or columns % w:
            raise ValueError(f"{name}: {rows}x{columns} is not divisible into {h}x{w}")


def released_cut(scores, density):
    """(masks, cut) of the released code of PINS and PLATON, defects included.

    cut = the k-th smallest of all n scores, k = int(n (1 - density)) counted from 1; pruned is
    what lies strictly below it: k - 1 entries, fewer if the cut is tied. For k < 1 nothing is
    pruned and the cut is NaN (our choice: there is no 0th smallest).
    """
    flat = sorted(value for _, _, value in _entries(scores))
    k = int(len(flat) * (1 - density))
    cut = flat[k - 1] if k >= 1 else nan
    return {name: ~(np.asarray(matrix) < cut) for name, matrix in scores.items()}, cut


def brute_force_ilp(grad, theta, theta_hat, keep):
    """The mask m with exactly `keep` ones that minimises sum_i g_i (m_i theta_hat_i - theta_i).

    Tries every mask (Ren & Zhu 2023: sorting by -g theta_hat solves this). The first of equal
    optima is returned, in which the earliest survive.
    """
    size, best, best_loss = len(grad), None, float("inf")
    for kept in combinations(range(size), keep):
        mask = np.array([i in kept for i in range(size)])
        loss = fsum(grad[i] * (mask[i] * theta_hat[i] - theta[i]) for i in range(size))
        if loss < best_loss:
            best, best_loss = mask, loss
    return best
