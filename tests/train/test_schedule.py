from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from msgspec.structs import replace

from depthmask.errors import UsageError
from depthmask.train.config import Phase, TrainingConfig
from depthmask.train.documents import read_recipe
from depthmask.train.recipe import GridRecipe
from depthmask.train.schedule import UNSEEN, Plan, Pool, learning_rate, split, split_grid

NONE = np.zeros(0, int)
GRID = GridRecipe(backgrounds=10, foregrounds=15, positions=2, flips=2)


def pool(count, share=1.0):
    return Pool(np.arange(100, 100 + count), NONE, share)


def unending(share=1.0):
    return Pool(None, UNSEEN + np.arange(3), share)


def plan(pools, *phases, **fields):
    return Plan(TrainingConfig(phases=phases, **fields), pools)


def indices(plan, step):
    return [draw.index for draw in plan.draws(step)]


def taken(plan, steps):
    return list(chain(*(indices(plan, step) for step in steps)))


def test_indices_of_an_unending_recipe_are_consecutive_across_phases():
    made = plan([unending()], Phase(32, 2, 2), Phase(64, 3, 1))
    assert made.steps == 3
    assert [indices(made, step) for step in range(3)] == [[0, 1], [2, 3], [4, 5, 6]]
    assert [made.draws(step)[0].resolution_px for step in range(3)] == [32, 32, 64]


def test_an_epoch_takes_each_index_once_and_fills_up_its_last_batch():
    made = plan([pool(10)], Phase(32, 4, epochs=2), Phase(48, 5, epochs=1))
    assert made.steps == 3 + 3 + 2
    epochs = [taken(made, steps) for steps in ((0, 1, 2), (3, 4, 5))]
    for epoch in epochs:
        assert sorted(epoch[:10]) == list(range(100, 110))
        assert epoch[10:] == epoch[:2]
    assert epochs[0] != epochs[1]
    assert sorted(indices(made, 6) + indices(made, 7)) == list(range(100, 110))
    assert [made.epoch_ends(done) for done in range(1, 9)] == [
        False, False, True, False, False, True, False, True,
    ]  # fmt: skip


def test_the_last_batch_of_an_epoch_is_filled_up_to_whole_micro_batches():
    made = plan([pool(11)], Phase(32, 8, epochs=2), micro_batch=2)
    assert [made.size(step) for step in range(4)] == [8, 4, 8, 4]
    first = taken(made, (0, 1))
    assert len(first) == 12
    assert first[11] == first[0]
    assert sorted(first[:11]) == sorted(taken(made, (2, 3))[:11]) == list(range(100, 111))


def test_steps_over_a_finite_source_go_on_into_the_next_pass():
    made = plan([pool(5)], Phase(32, 4, 3))
    passes = taken(made, range(3))
    assert sorted(passes[:5]) == sorted(passes[5:10]) == list(range(100, 105))
    assert [made.epoch_ends(done) for done in (1, 2, 3)] == [False, False, True]


def test_the_order_is_a_pure_function_of_seed_and_epoch():
    phases = (Phase(32, 4, epochs=3),)
    first, again = (plan([pool(20)], *phases, seed=4) for _ in range(2))
    again.draws(12)  # asked in another order
    assert [first.draws(step) for step in range(5)] == [again.draws(step) for step in range(5)]
    assert first.draws(0) != plan([pool(20)], *phases, seed=5).draws(0)


def test_sources_are_mixed_by_their_shares():
    made = plan([unending(0.5), pool(7, 0.4), pool(9, 0.1)], Phase(32, 500, 4))
    draws = [draw for step in range(4) for draw in made.draws(step)]
    shares = np.bincount([draw.source for draw in draws]) / len(draws)
    np.testing.assert_allclose(shares, [0.5, 0.4, 0.1], atol=0.04)
    assert [draw.number for draw in draws] == list(range(2000))
    assert {draw.index for draw in draws if draw.source == 1} == set(range(100, 107))
    assert all(draw.index == draw.number for draw in draws if draw.source == 0)


def test_several_data_sets_alone_have_epochs_of_their_size():
    made = plan([unending(0.0), pool(6, 0.5), pool(4, 0.5)], Phase(32, 5, epochs=2))
    assert (made.epoch_size, made.steps) == (10, 4)


def test_epochs_without_end_are_refused():
    with pytest.raises(UsageError, match="recipe with an end"):
        plan([unending()], Phase(32, 2, epochs=1))
    with pytest.raises(UsageError, match="one or more for training"):
        plan([pool(0)], Phase(32, 2, 1))


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_samples_of_one(processes):
    made = plan([unending(0.5), pool(9, 0.5)], Phase(32, 8, 3))
    for step in range(3):
        whole = made.draws(step)
        parts = [whole[rank::processes] for rank in range(processes)]
        assert sorted(chain(*parts)) == sorted(whole)
        assert all(d.number % processes == rank for rank, part in enumerate(parts) for d in part)


def test_a_split_is_by_share_and_has_no_overlap():
    train, validation = split(50, TrainingConfig(validation_share=0.2))
    assert (len(train), len(validation)) == (40, 10)
    assert sorted([*train, *validation]) == list(range(50))
    train, validation = split(1000, TrainingConfig(validation_share=0.2, samples=50))
    assert (len(train), len(validation)) == (40, 10)


def test_a_slice_of_a_grid_has_all_its_parts():
    reference = read_recipe("reference")
    for count in (500, 1020, 10_608):
        chosen = np.concatenate(split(reference.count, TrainingConfig(samples=count)))
        assert len(set(chosen.tolist())) == count
        background, foreground, position, flip = reference.combination(chosen)
        sizes = [len(set(part.tolist())) for part in (background, foreground, position, flip)]
        assert sizes[2:] == [20, 2]
        assert min(sizes[:2]) > 98


def test_a_disjoint_split_shares_no_background_and_no_foreground():
    config = TrainingConfig(disjoint=True, validation_share=0.2)
    train, validation = split_grid(GRID, config)

    def parts(indices):
        background, foreground, _, _ = GRID.combination(indices)
        return set(background), set(foreground)

    assert (len(train), len(validation)) == (8 * 12 * 4, 2 * 3 * 4)
    for ours, theirs in zip(parts(train), parts(validation), strict=True):
        assert not ours & theirs
    train, validation = split_grid(GRID, replace(config, samples=50))
    assert (len(train), len(validation)) == (40, 10)


def test_validation_draws_are_the_held_out_ones_up_to_the_limit():
    train, held = split(100, TrainingConfig(validation_share=0.2))
    made = plan([Pool(train, held, 1.0)], Phase(32, 4, 1), validation_limit=5)
    drawn = [draw.index for draw in made.validation(64)]
    assert len(drawn) == 5
    assert set(drawn) <= set(held.tolist())


def test_the_rate_warms_up_and_follows_a_cosine():
    config = TrainingConfig(warmup_steps=10, min_rate=1e-5)
    rates = [learning_rate(config, step, step / 100) for step in range(101)]
    assert rates[0] == pytest.approx(config.learning_rate / 10, rel=0.01)
    assert max(rates) == rates[9]
    assert rates[-1] == pytest.approx(1e-5)


def test_a_constant_rate_and_one_that_falls_at_the_end():
    constant = TrainingConfig(warmup_steps=0, schedule="constant")
    late = replace(constant, schedule="constant-then-cosine", decay_share=0.2)
    full = constant.learning_rate
    assert {learning_rate(constant, step, step / 100) for step in range(101)} == {full}
    assert learning_rate(late, 79, 0.79) == full
    assert learning_rate(late, 90, 0.9) == pytest.approx(full / 2)
    assert learning_rate(late, 100, 1.0) == 0
