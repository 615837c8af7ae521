"""Connected masks: exact counts, no unit left out, for any shapes and budgets; and a removal that never cuts a unit off."""
import math

import pytest, torch
from hypothesis import given, settings, strategies as st

from ggr_nb.beyond.connect import connected_masks, covering_budgets, covering_masks, drop_keep_units, even_masks, pick_even
from ggr_nb.drop import drop_local
from ggr_nb.init import fan_in
from ggr_nb.masks import Dense, Layer, snapshot

layer = st.tuples(st.integers(1, 12), st.integers(1, 12), st.sampled_from([(), (1, 1), (3, 3)])).map(lambda t: (*t[:2], *t[2]))
network = st.lists(layer, min_size=1, max_size=4).map(lambda shapes: {f'l{i}': s for i, s in enumerate(shapes)})


def budget(shapes, share):
    "Between one weight per unit and all weights, dealt so unevenly that the floors must act."
    least, most = sum(s[0] for s in shapes.values()), sum(map(math.prod, shapes.values()))
    total, uneven, left = round(least + share * (most - least)), {}, None
    left = total
    for n, s in shapes.items(): uneven[n] = min(math.prod(s), left); left -= uneven[n]
    return uneven


@settings(max_examples=80, deadline=None)
@given(network, st.floats(0, 1), st.integers(0, 99))
def test_every_unit_has_a_weight_and_counts_are_exact(shapes, share, seed):
    wanted = budget(shapes, share)
    floor = covering_budgets(shapes, wanted)
    assert sum(floor.values()) == sum(wanted.values())
    masks = covering_masks(shapes, floor, seed)
    assert {n: int(m.sum()) for n, m in masks.items()} == floor
    for n, m in masks.items():
        assert tuple(m.shape) == shapes[n] and m.dtype == torch.bool and fan_in(m).min() >= 1
        if floor[n] >= shapes[n][1]: assert fan_in(m.transpose(0, 1)).min() >= 1


@settings(max_examples=80, deadline=None)
@given(network, st.floats(0, 1), st.floats(0, 1), st.integers(0, 99), st.sampled_from([1, 2]))
def test_removal_leaves_every_unit_a_weight(shapes, share, fraction, seed, sides):
    gen = torch.Generator().manual_seed(seed)
    masks = connected_masks({n: torch.empty(s) for n, s in shapes.items()}, budget(shapes, share), seed)
    weights = {n: (torch.randn(m.shape, generator=gen) * 2).round() * m for n, m in masks.items()}   # with ties and zeros
    snap = snapshot(weights, {}, masks, fraction=fraction, seed=seed)
    for n, gone in drop_keep_units(snap, sides=sides).items():
        assert masks[n].flatten()[gone].all() and len(gone.unique()) == len(gone)
        assert len(gone) <= round(fraction * int(masks[n].sum()))
        left = masks[n].flatten().index_fill(0, gone, False).view(shapes[n])
        for side in range(sides):
            before, after = (fan_in(m.transpose(0, side)) for m in (masks[n], left))
            assert ((after > 0) == (before > 0)).all()


def test_a_unit_that_is_cut_off_already_stays_so_and_the_rest_drops_as_ever():
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]], dtype=torch.bool)
    snap = snapshot({'fc': torch.tensor([[4., 1., 2., 3.], [0., 0., 0., 0.]])}, {}, {'fc': mask}, fraction=.5)
    assert drop_keep_units(snap)['fc'].tolist() == drop_local(snap)['fc'].tolist() == [1, 2]


def test_too_few_weights_are_refused_with_the_reason():
    with pytest.raises(ValueError, match='at least 12'): covering_budgets({'a': (8, 3), 'b': (4, 8)}, {'a': 5, 'b': 5})


@settings(max_examples=80, deadline=None)
@given(network, st.floats(0, 1), st.integers(0, 99))
def test_even_masks_have_exact_counts_and_equal_units(shapes, share, seed):
    wanted = budget(shapes, share)
    masks = even_masks(shapes, wanted, seed)
    for n, m in masks.items():
        assert tuple(m.shape) == shapes[n] and m.dtype == torch.bool and int(m.sum()) == wanted[n]
        assert fan_in(m).max() - fan_in(m).min() <= 1
    assert all(torch.equal(m, even_masks(shapes, wanted, seed)[n]) for n, m in masks.items())


@settings(max_examples=80, deadline=None)
@given(layer, st.floats(0, 1), st.floats(0, 1), st.integers(0, 99), st.sampled_from([0., .5]))
def test_even_growth_lifts_the_lowest_units_first(shape, share, more, seed, late):
    "Also where some free places may not be taken yet, and a unit has less room than it has inputs to gain."
    gen = torch.Generator().manual_seed(seed)
    mask, score = torch.rand(shape, generator=gen) < share, (torch.randn(shape, generator=gen) * 2).round().abs()
    closed = mask | (torch.rand(shape, generator=gen) < late); free = ~closed; q = round(more * int(free.sum()))
    places = mask.flatten().nonzero().flatten()
    new = pick_even(Layer('l', shape, places, places * 0., {'grads': Dense(score)}, closed.flatten().nonzero().flatten()), q)
    assert len(new) == len(new.unique()) == q and free.flatten()[new].all()
    after = mask.flatten().index_fill(0, new, True).view(shape)
    before_, after_ = fan_in(mask), fan_in(after)
    grew, could = after_ > before_, after_ - before_ < fan_in(free)
    if grew.any() and could.any(): assert after_[grew].max() <= after_[could].min() + 1   # nobody is lifted past one that could still grow
    for u in range(shape[0]):   # inside a unit the largest scores were taken
        taken, left = after[u] & ~mask[u], free[u] & ~after[u]
        if taken.any() and left.any(): assert score[u][taken].min() >= score[u][left].max()
