"""The ICCV 2019 loss, against the values of the original implementation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from depthmask.train.relevance_loss import mask_sparsity, relevance_terms

VECTORS = Path(__file__).parents[1] / "data" / "reference_vectors.npz"
TERMS = ("depth", "dx", "dy", "normal")


@pytest.fixture(scope="module")
def vectors():
    with np.load(VECTORS) as stored:
        return {name[5:]: stored[name] for name in stored if name.startswith("loss/")}


@pytest.fixture
def maps(vectors):
    return tuple(torch.from_numpy(vectors[name]) for name in ("output", "depth"))


@pytest.mark.parametrize("term", TERMS)
def test_each_term_equals_the_original(vectors, maps, term):
    found = getattr(relevance_terms(*maps), f"{term}_B").mean().item()
    assert found == pytest.approx(float(vectors[f"{term}_term"]), abs=1e-6)


def test_the_total_equals_the_original(vectors, maps):
    sparsity = mask_sparsity(torch.from_numpy(vectors["mask"])).mean()
    total = sum(term.mean() for term in relevance_terms(*maps)) + 5 * sparsity
    assert total.item() == pytest.approx(float(vectors["total"]), abs=1e-6)


def test_what_is_missing_does_not_count(maps):
    output, depth = (tensor.clone() for tensor in maps)
    depth[:, :, 5:9, 7:12] = math.nan
    other = output.clone()
    other[:, :, 5:9, 7:12] = 1e3
    for ours, theirs in zip(
        relevance_terms(output, depth), relevance_terms(other, depth), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_an_image_without_a_depth_costs_exactly_zero(maps):
    output, depth = (tensor.clone() for tensor in maps)
    output.requires_grad_()
    depth[0] = math.nan
    terms = torch.stack(relevance_terms(output, depth))
    terms.sum().backward()
    assert (terms[:, 0] == 0).all()
    assert (output.grad[0] == 0).all()
    assert output.grad.isfinite().all()
