"""Maps measured on a teacher's features, against numpy and scikit-learn; and the matrices that PHI-S turns by."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import decomposition

from xmodal.adapters.projections import PROJECTIONS
from xmodal.adapters.projections.hadamard import hadamard
from xmodal.adapters.projections.measured import PCA, PHIStandardisation, Whitening
from xmodal.errors import AdapterError, RunError


@pytest.fixture
def rows():
    """Correlated, of unlike variances, far from zero."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(12, 12, generator=generator) * torch.logspace(0, 2, 12)
    return torch.randn(500, 12, generator=generator) @ mix + 30


def fitted(module, rows, batches=3):
    for batch in rows.chunk(batches):
        module.observe(batch)
    module.fit()
    return module


def moments(y):
    return y.double().mean(0), torch.from_numpy(np.cov(y.double().numpy().T))


def test_whitening_leaves_unit_variance_and_no_correlation_and_turns_nothing(rows):
    module = fitted(Whitening(12), rows)
    mean, covariance = moments(module(rows))
    torch.testing.assert_close(mean, torch.zeros(12, dtype=torch.float64), atol=1e-4, rtol=0)
    torch.testing.assert_close(covariance, torch.eye(12, dtype=torch.float64), atol=2e-3, rtol=0)
    torch.testing.assert_close(module.matrix, module.matrix.T, atol=1e-5, rtol=1e-4)  # ZCA: symmetric


def test_phi_s_gives_every_dimension_unit_variance_by_a_rotation_and_one_scale(rows):
    module = fitted(PHIStandardisation(12), rows)
    mean, covariance = moments(module(rows))
    torch.testing.assert_close(mean, torch.zeros(12, dtype=torch.float64), atol=1e-4, rtol=0)
    torch.testing.assert_close(covariance.diagonal(), torch.ones(12, dtype=torch.float64), atol=1e-4, rtol=0)
    gram = module.matrix.double() @ module.matrix.double().T
    scale = 12 / np.trace(np.cov(rows.double().numpy().T))
    torch.testing.assert_close(gram, scale * torch.eye(12, dtype=torch.float64), atol=1e-6 * scale, rtol=1e-5)


@pytest.mark.parametrize("whiten", [False, True])
def test_pca_is_scikit_learns(rows, whiten):
    module = fitted(PCA(12, 5, whiten=whiten), rows)
    expected = decomposition.PCA(5, whiten=whiten, svd_solver="full").fit_transform(rows.double().numpy())
    got = module(rows).double().numpy()
    signs = np.sign((got * expected).sum(0))
    np.testing.assert_allclose(got, expected * signs, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_how_the_rows_came_in_batches_makes_no_difference(rows):
    one, many = fitted(PCA(12, 5), rows, 1), fitted(PCA(12, 5), rows, 7)
    torch.testing.assert_close(one.matrix, many.matrix, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(one.mean, many.mean)


def test_nothing_of_it_is_trained_and_all_of_it_is_in_the_checkpoint(rows):
    module = fitted(Whitening(12), rows)
    assert not list(module.parameters())
    other = Whitening(12)
    other.load_state_dict(module.state_dict())
    torch.testing.assert_close(other.train()(rows), module(rows), rtol=0, atol=0)


def test_it_cannot_be_trained_with_before_it_is_measured(rows):
    with pytest.raises(RunError, match="before its statistics were measured"):
        PCA(12, 5)(rows)
    assert PCA(12, 5).eval()(rows).shape == (500, 5)
    with pytest.raises(RunError, match="0 were seen"):
        PCA(12, 5).fit()


@pytest.mark.parametrize("make", [lambda: Whitening(12), lambda: PCA(12, 8)])
def test_too_few_rows_are_told(make, rows):
    module = make()
    module.observe(rows[:12])
    with pytest.raises(RunError, match=r"more than 12 rows.* and saw 12. Give more samples"):
        module.fit()


def test_what_comes_out_of_a_layer_norm_is_whitened_in_the_directions_that_vary(rows):
    normed = torch.nn.functional.layer_norm(rows, (12,))
    _, covariance = moments(fitted(Whitening(12), normed)(normed))
    values = torch.linalg.eigvalsh(covariance)
    torch.testing.assert_close(values[1:], torch.ones(11, dtype=torch.float64), atol=1e-3, rtol=0)
    assert values[0] < 1e-3


def test_features_that_are_not_finite_or_all_alike_are_told(rows):
    rows[3, 4] = torch.nan
    with pytest.raises(RunError, match="NaN or infinity"):
        Whitening(12).observe(rows)
    with pytest.raises(RunError, match="all the same"):
        fitted(PHIStandardisation(12), torch.ones(9, 12), 1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PCA(4, 5), "random_orthogonal"),
        (lambda: PCA(4, 2, samples=1), "at least 2"),
        (lambda: PHIStandardisation(10), "most multiples of 4"),
    ],
)
def test_what_cannot_be_is_refused(make, said):
    with pytest.raises(AdapterError, match=said):
        make()


@pytest.mark.parametrize("size", [1, 2, 4, 12, 20, 28, 36, 192, 384, 512, 768, 1024, 1152, 1280])
def test_hadamard_matrices_are_orthonormal_with_entries_of_one_size(size):
    matrix = hadamard(size)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size, dtype=torch.float64), atol=1e-10, rtol=0)
    torch.testing.assert_close(matrix.abs(), torch.full((size, size), size**-0.5, dtype=torch.float64))


@pytest.mark.parametrize("size", [3, 6, 10, 50, 92])
def test_widths_without_one_are_refused(size):
    with pytest.raises(AdapterError, match=f"no Hadamard matrix {size} wide"):
        hadamard(size)


@pytest.mark.parametrize(("before", "after"), [(8, 8), (8, 3), (3, 8)])
def test_a_random_projection_has_orthonormal_rows_or_columns_and_is_the_seeds(before, after):
    torch.manual_seed(5)
    module = PROJECTIONS["random_orthogonal"](before, after)
    matrix = module.matrix if after <= before else module.matrix.T
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(min(before, after)), atol=1e-5, rtol=0)
    torch.manual_seed(5)
    assert torch.equal(PROJECTIONS["random_orthogonal"](before, after).matrix, module.matrix)
    assert not list(module.parameters())
