"""What a good lesson looks like, as far as it can be counted, and no notebook may get worse.

The project as a whole keeps the numbers of `WHOLE`. A new notebook keeps every number of `gaps`; where an older one does
not yet, `style.json` says by how much, and it may fall below that record but never above it.

    python tests/test_style.py            what each notebook still lacks, widest first
    python tests/test_style.py --record   write the record anew, after notebooks got better
"""
import ast, json, re, statistics, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'site'))
import pages  # noqa: E402

NBS, RECORD = ROOT / 'nbs', Path(__file__).with_name('style.json')
NOTEBOOKS = {p.relative_to(NBS).with_suffix('').as_posix(): p for p in pages.notebooks().values()}
TEST = re.compile(r'^\s*(assert\b|test_\w+\(|with (ExceptionExpected|expect_fail))', re.M)
WHOLE = dict(prose=.30, export_lines=20, function_lines=6, assertions=2, visible=.9)


def tree(body):
    "A cell's syntax tree; lines for the shell or IPython left out."
    return ast.parse(re.sub(r'^\s*[%!].*$', 'pass', body, flags=re.M))


def p90(values): return sorted(values)[int(.9 * len(values))] if values else 0
def middle(values): return statistics.median(values) if values else 0


def bare_parameters(function, lines):
    "The public parameters that no trailing comment explains."
    if function.name.startswith('_'): return []
    own = [a for a in function.args.posonlyargs + function.args.args + function.args.kwonlyargs if a.arg not in ('self', 'cls')]
    return [f'{function.name}({a.arg})' for a in own if '#' not in lines[a.end_lineno - 1][a.end_col_offset:]]


def measure(path):
    "Everything that is counted in one notebook."
    m = dict(prose=0, code=0, wide=[], exports=[], functions=[], public=[], shown=0, hidden=0, rows=[], mixed=[],
             bare=[], unexplained=[], unused=[], library=False, exercises=False)
    cells, run = [], 0
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        source = ''.join(cell['source'])
        said, body = pages.directives(source) if cell['cell_type'] == 'code' else ({}, source)
        cells.append((cell['cell_type'], said, body))
    for i, (kind, said, body) in enumerate(cells):
        if kind == 'markdown':
            m['prose'] += len(body); run = 0
            m['exercises'] |= bool(re.search(r'^#+ .*exercise', body, re.M | re.I))
            continue
        m['library'] |= 'default_exp' in said
        m['code'] += len(body)
        m['wide'] += [line.strip() for line in body.splitlines() if len(line) > 100]
        m['hidden' if 'hide' in said else 'shown'] += len(TEST.findall(body))
        if 'hide' in said or not body.strip(): continue
        run += 1
        if run > 4: m['rows'].append(body.splitlines()[0])
        parsed, exported = tree(body).body, {'export', 'exports'} & said.keys()
        imports = [isinstance(n, (ast.Import, ast.ImportFrom)) for n in parsed]
        if any(imports) and not all(imports) and not exported: m['mixed'].append(body.splitlines()[0])
        if not exported or all(imports): continue
        m['exports'].append(len([line for line in body.splitlines() if line.strip()]))
        for node in ast.walk(ast.Module(body=parsed, type_ignores=[])):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                m['functions'].append(node.end_lineno - node.lineno + 1)
                m['bare'] += bare_parameters(node, body.splitlines())
        for name in [n.name for n in parsed if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith('_')]:
            m['public'].append(name)
            if cells[i - 1][0] != 'markdown': m['unexplained'].append(name)
            if not any(re.search(rf'\b{name}\b', b) for _, _, b in cells[i + 1:i + 4]): m['unused'].append(name)
    return m


def gaps(m):
    "{what: (how far from good, in words)} of one notebook; nothing is far from good in a good one."
    tests, share = m['shown'] + m['hidden'], m['prose'] / max(1, m['prose'] + m['code'])
    found = {
        'prose': (round(100 * max(0, .3 - share)), f'{share:.0%} of the characters are prose (30 %)'),
        'wide lines': (len(m['wide']), f'lines of more than 100 columns: {m["wide"][:3]}'),
        'exported cells': (max(0, middle(m['exports']) - 8), f'{middle(m["exports"])} lines in the median (8)'),
        'long cells': (max(0, p90(m['exports']) - 20), f'one exported cell in ten has {p90(m["exports"])} lines or more (20)'),
        'functions': (max(0, middle(m['functions']) - 6), f'{middle(m["functions"])} lines in the median (6)'),
        'code in a row': (len(m['rows']), f'more than four code cells without prose, up to {m["rows"][:3]}'),
        'mixed imports': (len(m['mixed']), f'imports beside other code: {m["mixed"][:3]}'),
        'parameters': (len(m['bare']), f'no comment on {m["bare"][:6]}'),
        'unexplained': (len(m['unexplained']), f'no prose right before {m["unexplained"][:6]}'),
        'unused': (len(m['unused']), f'not used within three cells: {m["unused"][:6]}'),
        'assertions': (max(0, 2 * len(m['public']) - tests), f'{tests} assertions for {len(m["public"])} public symbols (two each)'),
        'hidden assertions': (max(0, round(100 * (.9 - m['shown'] / tests))) if tests else 0, f'{m["shown"]} of {tests} can be seen (90 %)'),
        'exercises': (int(m['library'] and not m['exercises']), 'there are none')}
    return {what: gap for what, gap in found.items() if gap[0] > 0}


def recorded(): return json.loads(RECORD.read_text(encoding='utf-8')) if RECORD.exists() else {}


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_notebook_is_a_good_lesson_or_no_worse_than_recorded(name):
    allowed = recorded().get(name, {})
    worse = [f'{what}: {words}; {far:g} from good, {allowed.get(what, 0):g} recorded'
             for what, (far, words) in gaps(measure(NOTEBOOKS[name])).items() if far > allowed.get(what, 0)]
    assert not worse, '\n'.join(worse)


def test_the_project_keeps_its_numbers():
    "Over all notebooks: share of prose, length of cells and functions, assertions for each public symbol and how many of them are seen."
    ms = [measure(p) for p in NOTEBOOKS.values()]
    total = lambda key: sum(m[key] if isinstance(m[key], int) else len(m[key]) for m in ms)
    tests = total('shown') + total('hidden')
    assert total('prose') / (total('prose') + total('code')) >= WHOLE['prose']
    assert p90([n for m in ms for n in m['exports']]) <= WHOLE['export_lines']
    assert middle([n for m in ms for n in m['functions']]) <= WHOLE['function_lines']
    assert tests / total('public') >= WHOLE['assertions']
    assert total('shown') / tests >= WHOLE['visible']


def test_a_bad_notebook_is_noticed(tmp_path):
    "The counting sees what it is meant to see."
    code = lambda *lines: dict(cell_type='code', source=list('\n'.join(lines).splitlines(True)), outputs=[])
    bad = [dict(cell_type='markdown', source=['# Bad']), code('#| default_exp bad'),
           code('import os', 'x = 1'), code('#| exports', 'def f(a):', *['    a += 1'] * 22),
           code('y = ' + '1 + ' * 30 + '1'), code('z = 2'), code('u = 3'), code('v = 4')]
    path = tmp_path / 'bad.ipynb'
    path.write_text(json.dumps(dict(cells=bad)))
    assert set(gaps(measure(path))) == {'prose', 'wide lines', 'exported cells', 'long cells', 'functions', 'code in a row', 'mixed imports',
                                        'parameters', 'unexplained', 'unused', 'assertions', 'exercises'}


if __name__ == '__main__':
    found = {name: gaps(measure(path)) for name, path in NOTEBOOKS.items()}
    if '--record' in sys.argv:
        record = {name: {what: far for what, (far, _) in g.items()} for name, g in found.items() if g}
        RECORD.write_text(json.dumps(record, indent=1) + '\n', encoding='utf-8')
    for name, g in found.items():
        for what, (far, words) in sorted(g.items(), key=lambda x: -x[1][0]): print(f'{name:28} {what:18} {far:5g}   {words[:150]}')
