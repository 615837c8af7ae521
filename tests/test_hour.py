"""`hour` keeps its promises: nothing of this package before the last section, numbers that come from cells, exercises that refuse.

That it runs and that its outputs are true is tested with all notebooks; its own assertions hold its comparing sentences.
"""
import re

import pytest
from execnb.nbio import read_nb


@pytest.fixture(scope='module')
def cells(root): return read_nb(root / 'nbs' / 'hour.ipynb').cells


def outputs(cell): return ' '.join(''.join(o.get('text', '')) for o in cell.get('outputs', []))


def test_the_library_comes_last(cells):
    titles = [i for i, c in enumerate(cells) if c.cell_type == 'markdown' and re.search(r'^## ', c.source, re.M)]
    uses = [i for i, c in enumerate(cells) if c.cell_type == 'code' and 'ggr_nb' in c.source]
    assert uses == [len(cells) - 2] and uses[0] > titles[-1], 'ggr_nb is imported in the last section only'
    assert 'Sparsifier(' in cells[-1].source and 'assert' in cells[-1].source


def test_every_number_of_the_prose_is_in_a_cell_above(cells):
    "Numbers of two digits or more, without years, minutes and links, are printed or written in code before they are said."
    above, strangers = ' 2 % of the 300 steps, 8 by 8; ', []
    for c in cells:
        if c.cell_type == 'code': above += c.source.replace('_', '') + outputs(c).replace(',', '')
        else:
            said = re.sub(r'\]\([^)]*\)|\(\d+ minutes?\)|\b20\d\d\b|`[^`]*`|notebook \d+', '', c.source).replace(',', '')
            strangers += [(n, c.source[:60]) for n in re.findall(r'(?<![\w.])\d[\d.]*\d(?![\w])', said)
                          if n not in above and f'{n}_' not in above]
    assert not strangers, f'said, but neither printed nor computed above: {strangers}'


def test_minutes_add_up(cells):
    minutes = [int(n) for c in cells if c.cell_type == 'markdown' for n in re.findall(r'^## .*\((\d+) minutes?\)', c.source, re.M)]
    assert sum(minutes) <= 60 and len(minutes) > 8
