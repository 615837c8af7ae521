"""Every exercise of the reading path can be solved, and refuses what is wrong.

A reader's cell has a placeholder (`x = None`, or a function that returns None) and the check behind it. Here the folded
solution, and wrong answers that a reader might well give, are put in the placeholder's place, in the notebook as it is at that
point: the solution must pass, every wrong answer must be refused in words.
"""
import ast, os
from pathlib import Path

import matplotlib, pytest, torch
from execnb.nbio import read_nb
from matplotlib import pyplot as plt

NBS = Path(__file__).resolve().parent.parent / 'nbs'

# {notebook: {name that the reader defines: wrong answers, as source}}
WRONG = {
    '00_masks': {
        'comes_back': ['comes_back = False', 'comes_back = "yes"'],
        'your_density': ['your_density = (.5 + .01) / 2', 'your_density = .5 * .01'],
        'dead_units': ['def dead_units(mask): return int((mask.flatten(1).sum(0) == 0).sum())',      # columns
                       'def dead_units(mask): return int(mask.flatten(1).sum(1).min() == 0)',
                       'def dead_units(mask): return int((mask == 0).sum())'],
    },
    '01_density': {
        'weights_factor': ['weights_factor, density_factor = 4, 1', 'weights_factor, density_factor = 2, 2'],
        'rigl_uniform': ['def rigl_uniform(shapes, density): return dict.fromkeys(shapes, 1.)',
                         'def rigl_uniform(shapes, density): return uniform(shapes, density)',
                         'def rigl_uniform(shapes, density): return uniform(shapes, density, dense=["conv1.weight"])'],
        'first_saturation': ['first_saturation = .02', 'first_saturation = .005', 'first_saturation = 1'],
    },
    '02_init': {
        'your_estimate': ['your_estimate = 0', 'your_estimate = .01', 'your_estimate = 1 - .01 ** 256'],
        'covering_mask': ['def covering_mask(n_out, n_in, active, gen): return torch.eye(n_out, n_in).bool()',
                          'def covering_mask(n_out, n_in, active, gen):\n'
                          '    return random_masks({"w": (n_out, n_in)}, {"w": active})["w"]',
                          'def covering_mask(n_out, n_in, active, gen):\n'
                          '    return (torch.eye(n_out, n_in) + torch.eye(n_out, n_in).roll(1, 1) * '
                          '(torch.arange(n_out) < active - n_out)[:, None]).bool()'],
        'buggy': ['def buggy(mask): return (2 / effective_fan_in(mask, "unit")).sqrt()[:, None]',
                  'def buggy(mask): return 2 / effective_fan_in(mask, "unit")',
                  'def buggy(mask): return (2 / effective_fan_in(mask, "dense"))[:, None]'],
    },
    '03_drop': {
        'movement': ['def movement(w, old): return w', 'def movement(w, old): return w - old',
                     'def movement(w, old): return (w.abs() - old.abs()).abs() * w.abs() + (w < 0) * -9',
                     'def movement(w, old): return w.abs()'],
        'changes': ['changes = {"drop_local", "drop_threshold", "drop_global"}', 'changes = {"drop_threshold"}',
                    'changes = set()'],
        'updates_needed': ['updates_needed = 24', 'updates_needed = 35', 'updates_needed = 8', 'updates_needed = 27.9'],
    },
    '04_topk': {
        'smallest_key': ['smallest_key = torch.abs', 'smallest_key = lambda w: -w', 'smallest_key = lambda w: w'],
        'large_ones_come': ['large_ones_come = "last"', 'large_ones_come = "middle"'],
        'numbers_sent': ['numbers_sent = 20', 'numbers_sent = 80', 'numbers_sent = 3400'],
    },
    '05_allocate': {
        'loudest': ['def loudest(snap, dropped, free): return dropped',
                    'def loudest(snap, dropped, free): return mean_gradient(snap, dropped, free)',
                    'def loudest(snap, dropped, free): return global_topk(snap, dropped, free).quotas'],
        'least': ['least = 2', 'least = 11', 'least = 20', 'least = 10.5'],
    },
    '06_grow': {
        'lost_share': ['lost_share = .5', 'lost_share = .7', 'lost_share = 0'],
        'cover_first': ['def cover_first(snap, layer, q): return pick_top(snap, layer, q)',
                        'def cover_first(snap, layer, q): return torch.arange(24) * 60',
                        'def cover_first(snap, layer, q):\n'
                        '    empty = torch.arange(5) * 60\n'
                        '    return torch.cat([empty, pick_random(layer.blocking(empty), q - 5, generator(0))])'],
        'times': ['times = 1', 'times = 2', 'times = 1000'],
    },
    '07_schedule': {
        'rigl_turnover': ['rigl_turnover = 293 * .3', 'rigl_turnover = 2.5', 'rigl_turnover = 58.6', 'rigl_turnover = 0'],
        'same_traffic': ['same_traffic = .1', 'same_traffic = .05', 'same_traffic = 0'],
    },
    '08_methods': {
        'rigl_by_sign': ['rigl_by_sign = rigl', 'rigl_by_sign = set_original',
                         'rigl_by_sign = replace(ggr, name="rigl-by-sign", drop=set_original.drop)'],
        'ggr_mest': ['ggr_mest = ggr', 'ggr_mest = replace(rigl, drop=partial(drop.drop_local, criterion="mest"))',
                     'ggr_mest = replace(ggr, drop=partial(drop.drop_local, criterion="snip"))',
                     'ggr_mest = replace(ggr, drop=partial(drop.drop_local, criterion="mest"), grow=rigl.grow)'],
        'lazy': ['lazy = METHODS["static"]', 'lazy = rigl', 'lazy = set_'],
    },
    '09_sparsify': {
        'epochs_needed': ['epochs_needed = 1', 'epochs_needed = 6', 'epochs_needed = 0'],
        'diagonal': ['diagonal = {"fc2.weight": torch.eye(10, 256)}',
                     'diagonal = {n: torch.eye(*m.flatten(1).shape, dtype=torch.bool).view_as(m) for n, m in fresh()[2].masks.items()}'],
        'order': ['order = "after"', 'order = "it does not matter"'],
    },
    '10_sparse': {
        'break_even': ['break_even = 0', 'break_even = 1', 'break_even = 20 / 24'],
        'can_miss': ['can_miss = True', 'can_miss = "no"'],
    },
}


def is_none(node): return isinstance(node, ast.Constant) and node.value is None


def placeholder(node):
    "The names that a statement leaves to the reader."
    if isinstance(node, ast.FunctionDef):
        body = node.body[-1]
        return [node.name] if len(node.body) == 1 and isinstance(body, ast.Return) and is_none(body.value) else []
    if not isinstance(node, ast.Assign): return []
    values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
    if not all(map(is_none, values)): return []
    return [n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)]


def exercises(cells):
    "{index of a reader's cell: (names, source without the placeholder)}; the folded solution is the next cell."
    found, begun = {}, False
    for i, c in enumerate(cells):
        begun |= c.cell_type == 'markdown' and '## Exercises' in c.source
        if not begun or c.cell_type != 'code' or 'code-fold' in c.source or 'nbdev_export' in c.source: continue
        body = ast.parse(c.source).body
        names = [n for node in body for n in placeholder(node)]
        if names: found[i] = names, ast.unparse(ast.Module([n for n in body if not placeholder(n)], []))
    return found


def run(source, space): exec(compile(source, 'cell', 'exec'), space)


@pytest.fixture(scope='module', autouse=True)
def quiet():
    "Notebooks draw and use the global generator."
    place, threads, backend, rc = os.getcwd(), torch.get_num_threads(), matplotlib.get_backend(), matplotlib.rcParams.copy()
    state = torch.get_rng_state()
    plt.switch_backend('agg'); torch.set_num_threads(1); os.chdir(NBS)
    yield
    os.chdir(place); torch.set_num_threads(threads); torch.set_rng_state(state)
    plt.close('all'); plt.switch_backend(backend); matplotlib.rcParams.update(rc)


def hidden(source): return '_explorer(' in source or 'nbdev_export' in source


@pytest.mark.parametrize('notebook', WRONG)
def test_exercises(notebook, capsys):
    cells, space = read_nb(NBS / f'{notebook}.ipynb').cells, {'__name__': '__main__'}
    asked = exercises(cells)
    wrong = dict(WRONG[notebook])
    for i, c in enumerate(cells):
        if c.cell_type != 'code' or hidden(c.source): continue
        run(c.source, space)                                    # the reader's cell as it stands: nothing to check yet
        if i not in asked: continue
        names, check = asked[i]
        assert 'code-fold' in cells[i + 1].source or 'code-fold' in cells[i + 2].source, f'{names}: no folded solution follows'
        before = dict(space)
        solution = next(s for s in (cells[i + 1], cells[i + 2]) if 'code-fold' in s.source)
        run(solution.source, space)
        missing = [n for n in names if space.get(n) is None or space[n] is before.get(n)]
        assert not missing, f'the solution does not define {missing}'
        run(check, space)
        answers = wrong.pop(names[0])
        assert len(answers) > 1, f'{names}: try two wrong answers at least'
        for answer in answers:
            space.clear(); space.update(before)
            run(answer, space)
            with pytest.raises(AssertionError) as refusal: run(check, space)
            assert len(str(refusal.value)) > 10, f'{answer!r} is refused without a hint'
        space.clear(); space.update(before)
    assert not wrong, f'no exercise asks for {list(wrong)}'


def test_an_unchecked_exercise_would_be_noticed():
    "Every reader's cell of the reading path is in the table."
    for path in sorted(NBS.glob('[0-9]*.ipynb')):
        names = [names[0] for names, _ in exercises(read_nb(path).cells).values()]
        assert sorted(names) == sorted(WRONG.get(path.stem, {})), path.stem
