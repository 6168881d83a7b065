"""Is the reference itself right? Recordings of the released code, and numbers worked by hand."""

import os
from pathlib import Path

import numpy as np
import pytest
import reference as ref

GOLDEN = Path(
    os.environ.get("PRUNELLA_GOLDEN", Path(__file__).resolve().parents[2] / "shared" / "golden")
)

# What the recordings (float32, 1024 entries, 64 of them biases, window 5) showed:
# - The float64 replay agrees with everything to 1e-6 relative and with every mask exactly.
# - Steps count from 0 for both methods. PINS takes the scheduled lr of that very step.
# - Biases are ranked with the weights in one list, in which k = int(n (1 - density)).
# - Exactly k - 1 are pruned at every masking; no cut was tied and no k was below 1, so those two
#   branches of `released_cut` are not covered by a recording.
# - Masks follow "reselect": no masking at `end` = 68, not divisible by 5, then one at every step.
# - No weight is held at zero between two maskings, and the optimizer's moments are never masked.


class Optimizer:
    """Plain SGD, or AdamW without weight decay, for one matrix."""

    def __init__(self, kind):
        self.kind, self.m, self.v, self.count = kind, 0.0, 0.0, 0

    def step(self, theta, grad, lr):
        if self.kind == "sgd":
            return theta - lr * grad
        self.count += 1
        self.m = 0.9 * self.m + 0.1 * grad
        self.v = 0.999 * self.v + 0.001 * grad**2
        m_hat, v_hat = self.m / (1 - 0.9**self.count), self.v / (1 - 0.999**self.count)
        return theta - lr * m_hat / (np.sqrt(v_hat) + 1e-8)


def close(ours, recorded):
    recorded = np.asarray(recorded, dtype=np.float64)
    scale = np.abs(recorded).max()
    np.testing.assert_allclose(ours, recorded, rtol=1e-5, atol=1e-6 * scale)


def recording(name):
    path = GOLDEN / f"{name}.npz"
    if not path.exists():
        pytest.skip("no golden recordings here; set PRUNELLA_GOLDEN")
    with np.load(path) as file:
        return {key: file[key] for key in file.files}


RELEASED = [
    ("pins_released_adamw", ref.PINSReleased),
    ("pins_released_sgd", ref.PINSReleased),
    ("platon_released_adamw", ref.PLATONReleased),
    ("platon_released_sgd", ref.PLATONReleased),
]


@pytest.mark.parametrize("name, method", RELEASED)
def test_replays_the_released_code(name, method):
    data = recording(name)
    kind, settings = str(data["optimizer"]), (float(data["beta1"]), float(data["beta2"]))
    names = [key.removeprefix("init/") for key in data if key.startswith("init/")]
    theta = {n: data[f"init/{n}"].astype(np.float64) for n in names}
    optimizers = {n: Optimizer(kind) for n in names}
    scores = {n: method(*settings, int(data["delta_t"])) for n in names}
    size, maskings = sum(x.size for x in theta.values()), 0

    for step, lr in enumerate(data["lr"]):
        for n in names:
            grad = data[f"grad/{n}"][step].astype(np.float64)
            theta_hat = optimizers[n].step(theta[n], grad, lr)
            scores[n].observe(step, theta[n], grad, theta_hat, lr)
            theta[n] = theta_hat
        kept = {n: data[f"after/{n}"][step] != 0 for n in names}
        if np.isnan(data["score_cut"][step]):
            assert all(mask.all() for mask in kept.values())
        else:
            density = data["remaining"][step]
            masks, cut = ref.released_cut({n: scores[n].score() for n in names}, density)
            close(cut, data["score_cut"][step])
            for n in names:
                np.testing.assert_array_equal(masks[n], kept[n], err_msg=f"{n}, step {step}")
            assert sum((~mask).sum() for mask in kept.values()) == int(size * (1 - density)) - 1
            maskings += 1
        for n in names:
            theta[n] = np.where(kept[n], theta[n], 0.0)
            close(theta[n], data[f"after/{n}"][step])

    assert maskings == 24
    for n in names:
        close(scores[n].importance_ema, data[f"importance_ema/{n}"])
        close(scores[n].uncertainty_ema, data[f"uncertainty_ema/{n}"])
        close(scores[n].window_mean, data[f"window_mean/{n}"])


@pytest.mark.parametrize("name", [name for name, _ in RELEASED])
def test_schedule_of_the_released_code(name):
    data = recording(name)
    total, unit = len(data["lr"]), int(data["warmup_steps"])
    begin, end = unit * int(data["initial_warmup"]), total - unit * int(data["final_warmup"])
    final = 1 - float(data["final_remaining"])
    sparsity = [ref.cubic(t, final, begin, end) for t in range(total)]
    np.testing.assert_allclose(sparsity, 1 - data["remaining"], rtol=0, atol=1e-12)
    masked = [ref.updates(t, begin, end, int(data["delta_t"]), "reselect") for t in range(total)]
    assert masked == (~np.isnan(data["score_cut"])).tolist()


# One observation: theta = (2, -3), g = (4, 1), theta_hat = (1, -5), lr = 0.5.
ONE_STEP = [
    (ref.Magnitude, {}, [1, 5]),
    (ref.Sensitivity, {}, [8, 3]),
    (ref.Sensitivity, {"smoothing": 0.75}, [2, 0.75]),
    (ref.Fisher, {}, [16, 25]),  # bias correction makes vhat = g^2 after one step
    (ref.PINSSigned, {}, [-4, 5]),
    (ref.PINSSigned, {"smoothing": 0.5}, [-2, 2.5]),
    (ref.PINSSignedSgd, {}, [0, 3.5]),  # -8 + 0.5 * 16, 3 + 0.5 * 1
    (ref.PINSSignedSgd, {"smoothing": 0.5}, [0, 1.75]),
]


@pytest.mark.parametrize("method, settings, expected", ONE_STEP)
def test_scores_after_one_step(method, settings, expected):
    score = method(**settings)
    score.observe(0, [2, -3], [4, 1], [1, -5], 0.5)
    np.testing.assert_allclose(score.score(), expected, rtol=1e-12)


def test_averages_over_two_steps():
    fisher, signed = ref.Fisher(beta2=0.5), ref.PINSSigned(smoothing=0.5)
    for method in (fisher, signed):
        method.observe(0, [9.0], [2.0], [3.0], 0.1)
        method.observe(1, [9.0], [4.0], [-1.0], 0.1)
    # v = 0.5 * 2 + 0.5 * 16 = 9, vhat = 9 / 0.75 = 12; the newest weight counts.
    np.testing.assert_allclose(fisher.score(), [12.0])
    # 0.5 * (0.5 * -6) + 0.5 * 4
    np.testing.assert_allclose(signed.score(), [0.5])


# Each sees s = 2, 4, 6, 8, 10 by its own formula when lr = 1 and the arguments are as given.
WINDOWED = [
    (ref.PLATON, lambda s: dict(theta=[-s], grad=[1.0], theta_hat=[99.0])),
    (ref.PLATONReleased, lambda s: dict(theta=[99.0], grad=[-1.0], theta_hat=[s])),
    (ref.PINS, lambda s: dict(theta=[99.0], grad=[1.0], theta_hat=[s])),
    (ref.PINSSgd, lambda s: dict(theta=[s + 1], grad=[1.0], theta_hat=[99.0])),
    (ref.PINSReleased, lambda s: dict(theta=[1 - s], grad=[1.0], theta_hat=[99.0])),
]


@pytest.mark.parametrize("method, arguments", WINDOWED)
def test_windowed_scores(method, arguments):
    score = method(beta1=0.5, beta2=0.75, window=2)
    seen = []
    for step, s in enumerate([2.0, 4.0, 6.0, 8.0, 10.0]):
        score.observe(step, lr=1.0, **arguments(s))
        seen.append(score.score().item())
    # Step 2: I = 3, mean 1.5, uncertainty 0.25 * |3 - 1.5| = 0.375.
    # Step 4: I = 7, mean 0.75 + 3.5 = 4.25, uncertainty 0.28125 + 0.25 * 2.75 = 0.96875.
    assert seen == [0, 0, 0.5625, 0.5625, 4.25 * 0.96875]


def test_defaults():
    for method in (ref.PLATON(), ref.PLATONReleased()):
        assert (method.beta1, method.beta2, method.window) == (0.85, 0.95, 10)
    for method in (ref.PINS(), ref.PINSSgd(), ref.PINSReleased()):
        assert (method.beta1, method.beta2, method.window) == (0.85, 0.99, 10)


def test_scores_keep_no_view_of_their_arguments():
    theta_hat = np.array([1.0, 2.0])
    score = ref.Magnitude()
    score.observe(0, theta_hat, theta_hat, theta_hat, 0.1)
    theta_hat[:] = 0
    np.testing.assert_array_equal(score.score(), [1, 2])


@pytest.mark.parametrize("keep", range(7))
def test_sorting_solves_the_integer_programme(keep):
    rng = np.random.default_rng(keep)
    grad, theta, theta_hat = rng.normal(size=(3, 6))
    for after, method in ((theta_hat, ref.PINSSigned()), (theta - 0.1 * grad, ref.PINSSignedSgd())):
        method.observe(0, theta, grad, after, 0.1)
        sorted_mask = ref.select_global({"w": method.score()}, 1 - keep / 6)["w"]
        np.testing.assert_array_equal(sorted_mask, ref.brute_force_ilp(grad, theta, after, keep))


def test_brute_force_by_hand():
    # Keeping costs g theta_hat = (2, -3, 0, 0); the last two tie, the earlier survives.
    mask = ref.brute_force_ilp([1, 3, 0, 0], [5, 5, 5, 5], [2, -1, 7, 8], 2)
    assert mask.tolist() == [False, True, True, False]


def test_ramps():
    assert [ref.cubic(t, 0.8, 10, 20) for t in (0, 10, 20, 99)] == [0, 0, 0.8, 0.8]
    assert ref.cubic(15, 0.8, 10, 20) == pytest.approx(0.7)  # 0.8 - 0.8 / 8
    assert ref.cubic(15, 0.8, 10, 20, initial=0.4) == pytest.approx(0.75)
    assert ref.linear(15, 0.8, 10, 20) == pytest.approx(0.4)
    assert ref.linear(11, 0.8, 10, 20, initial=0.3) == pytest.approx(0.35)
    assert [ref.linear(t, 0.8, 10, 20, 0.3) for t in (3, 10, 20, 21)] == [0.3, 0.3, 0.8, 0.8]
    for ramp in (ref.cubic, ref.linear):
        with pytest.raises(ValueError, match="end after"):
            ramp(0, 0.8, 10, 10)


@pytest.mark.parametrize(
    "end, after, expected",
    [
        (14, "freeze", [8, 12, 14]),
        (14, "reselect", [8, 12, 15, 16, 17]),
        (12, "freeze", [8, 12]),
        (12, "reselect", [8, 12, 13, 14, 15, 16, 17]),
    ],
)
def test_updates(end, after, expected):
    # begin = 4 is divisible by 4, but excluded.
    assert [t for t in range(18) if ref.updates(t, 4, end, 4, after)] == expected


def test_updates_rejects_a_typo():
    with pytest.raises(ValueError, match="freeze"):
        ref.updates(0, 4, 14, 4, "frozen")


def kept(masks):
    return {name: mask.astype(int).tolist() for name, mask in masks.items()}


def test_global_and_per_matrix_selection():
    scores = {"b": np.array([[1.0, 5.0], [2.0, 6.0]]), "a": np.array([[3.0, 4.0, 7.0, 8.0]])}
    assert kept(ref.select_global(scores, 0.5)) == {"b": [[0, 1], [0, 1]], "a": [[0, 0, 1, 1]]}
    assert kept(ref.select_per_matrix(scores, 0.5)) == {"b": [[0, 1], [0, 1]], "a": [[0, 0, 1, 1]]}
    assert kept(ref.select_global(scores, 0.25)) == {"b": [[0, 1], [0, 1]], "a": [[1, 1, 1, 1]]}
    assert kept(ref.select_per_matrix(scores, 0.25)) == {"b": [[0, 1], [1, 1]], "a": [[0, 1, 1, 1]]}


def test_ties_keep_the_earliest():
    # Dict order, not the alphabet, decides which matrix is earlier.
    scores = {"z": np.zeros((1, 3)), "a": np.zeros((1, 3))}
    assert kept(ref.select_global(scores, 0.5)) == {"z": [[1, 1, 1]], "a": [[0, 0, 0]]}
    assert kept(ref.select_per_matrix(scores, 1 / 3)) == {"z": [[1, 1, 0]], "a": [[1, 1, 0]]}
    # Only the ties at the cut are decided by position, and 0.0 ties with -0.0.
    scores = {"w": np.array([[-0.0, 0.0, -1.0, 0.0, 2.0]])}
    assert kept(ref.select_global(scores, 0.6)) == {"w": [[1, 0, 0, 0, 1]]}


@pytest.mark.parametrize(
    "sparsity, pruned", [(0, 0), (0.1, 0), (0.3, 2), (0.5, 2), (0.7, 4), (1, 5)]
)
def test_exact_count(sparsity, pruned):
    # round(2.5) is 2 and round(0.5) is 0: Python rounds halves to even. 0.3 * 5 is 1.5 -> 2.
    for scores in (np.ones((1, 5)), np.arange(5.0).reshape(1, 5)):
        assert (~ref.select_global({"w": scores}, sparsity)["w"]).sum() == pruned


def test_nm_groups_run_along_the_inputs():
    scores = {
        "a": np.array([[1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 5.0, 5.0]]),
        "b": np.array([[9.0, 0.5, 8.0, 0.25], [7.0, 7.5, 6.0, 6.5]]),
    }
    full = {"a": [[0, 0, 1, 1, 1, 1, 0, 0]], "b": [[1, 0, 1, 0], [1, 1, 0, 0]]}
    assert kept(ref.select_nm(scores, 0.5, 2, 4, "global")) == full
    assert kept(ref.select_nm(scores, 0.5, 2, 4, "matrix")) == full
    # Four of sixteen: the lowest candidates over all are 0.25, 0.5, 1 and 2.
    quarter = {"a": [[0, 0, 1, 1, 1, 1, 1, 1]], "b": [[1, 0, 1, 0], [1, 1, 1, 1]]}
    assert kept(ref.select_nm(scores, 0.25, 2, 4, "global")) == quarter
    # Candidates 1, 2, 5, 5: 3 of 8 go in "a", and of the two fives the earlier survives.
    assert kept(ref.select_nm(scores, 0.375, 2, 4, "matrix")) == {
        "a": [[0, 0, 1, 1, 1, 1, 1, 0]],
        "b": [[1, 0, 1, 0], [1, 1, 0, 1]],
    }


def test_nm_spares_what_is_low_but_best_of_its_group():
    scores = {"w": np.array([[1.0, 2.0, 8.0, 9.0]])}
    assert kept(ref.select_nm(scores, 0.5, 1, 2, "global")) == {"w": [[0, 1, 0, 1]]}
    assert kept(ref.select_nm(scores, 0.75, 1, 4, "global")) == {"w": [[0, 0, 0, 1]]}
    with pytest.raises(ValueError, match="cannot prune 3"):
        ref.select_nm(scores, 0.75, 1, 2, "global")
    with pytest.raises(ValueError, match="not divisible"):
        ref.select_nm(scores, 0.5, 1, 3, "global")


def test_blocks():
    a = np.array([[1.0, 1.0, 0.0, 9.0], [1.0, 1.0, 0.0, 0.0]])  # means of 2x2: 1, 2.25
    b = np.array([[4.0, 4.0], [4.0, 4.0], [0.0, 0.0], [0.0, 5.0]])  # 4, 1.25
    scores = {"a": a, "b": b}
    assert kept(ref.select_block(scores, 0.25, 2, 2, "global")) == {
        "a": [[0, 0, 1, 1], [0, 0, 1, 1]],
        "b": [[1, 1]] * 4,
    }
    assert kept(ref.select_block(scores, 0.5, 2, 2, "matrix")) == {
        "a": [[0, 0, 1, 1], [0, 0, 1, 1]],
        "b": [[1, 1], [1, 1], [0, 0], [0, 0]],
    }
    # 1 row x 2 columns; the means in order are 1, 4.5, 1, 0: the earlier of the two ones survives.
    assert kept(ref.select_block({"a": a}, 0.5, 1, 2, "global")) == {
        "a": [[1, 1, 1, 1], [0, 0, 0, 0]]
    }


def test_block_ties_keep_the_earliest_in_row_major_order():
    scores = {"z": np.zeros((2, 4)), "a": np.zeros((2, 2))}
    assert kept(ref.select_block(scores, 0.5, 1, 2, "global")) == {
        "z": [[1, 1, 1, 1], [1, 1, 0, 0]],
        "a": [[0, 0], [0, 0]],
    }
    with pytest.raises(ValueError, match="not divisible"):
        ref.select_block(scores, 0.5, 2, 4, "global")


def test_released_cut_by_hand():
    scores = {"w": np.array([[4.0, 1.0], [3.0, 2.0]]), "bias": np.array([5.0])}
    # k = 3, the cut is 3: two are pruned, one fewer than asked.
    masks, cut = ref.released_cut(scores, 0.4)
    assert (kept(masks), cut) == ({"w": [[1, 0], [1, 0]], "bias": [1]}, 3)
    masks, cut = ref.released_cut({"w": np.array([1.0, 1.0, 1.0, 2.0])}, 0.25)
    assert (kept(masks), cut) == ({"w": [1, 1, 1, 1]}, 1)
    masks, cut = ref.released_cut(scores, 1.0)
    assert all(mask.all() for mask in masks.values()) and np.isnan(cut)
