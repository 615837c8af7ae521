"""The repository itself: what is exported, stored and promised agrees with the notebooks it comes from."""
import ast, configparser, json, os, re, shutil, subprocess, sys
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'site'))
import pages, readme  # noqa: E402

NBS = ROOT / 'nbs'
NOTEBOOKS = list(pages.notebooks().values())
IDS = [p.relative_to(NBS).with_suffix('').as_posix() for p in NOTEBOOKS]
LIBRARY = sorted(p for p in (ROOT / 'ggr_nb').rglob('*.py') if not p.name.startswith('_'))
each_notebook = pytest.mark.parametrize('path', NOTEBOOKS, ids=IDS)
each_module = pytest.mark.parametrize('path', LIBRARY, ids=lambda p: module_name(p))


@lru_cache
def cells(path):
    "[(kind, directives, body, cell)] of a notebook; directives is {name: value}."
    found = []
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        said, body = pages.directives(''.join(cell['source'])) if cell['cell_type'] == 'code' else ({}, ''.join(cell['source']))
        found.append((cell['cell_type'], said, body, cell))
    return found


def tree(body):
    "A cell's syntax tree; lines for the shell or IPython left out."
    return ast.parse(re.sub(r'^\s*[%!].*$', 'pass', body, flags=re.M))


# --- nbdev changes nothing ------------------------------------------------------------------------------------------

def files(top):
    "{path: content} of what git would keep of a folder."
    listed = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard', '-z'], cwd=top, capture_output=True, check=True).stdout
    return {n: (top / n).read_bytes() for n in listed.decode().split('\0') if n and (top / n).is_file() and not (top / n).is_symlink()}


@pytest.fixture
def copy(tmp_path):
    "A copy of the work tree, as git sees it, where nbdev may write."
    if not (ROOT / '.git').exists(): pytest.skip('not a git clone: nothing says which files are tracked')
    top = tmp_path / 'copy'
    shutil.copytree(ROOT, top, symlinks=True, ignore=shutil.ignore_patterns('.git', '.venv', '_docs', '_proc', 'data', 'runs', '.hypothesis', '.pytest_cache', '__pycache__'))
    for command in (['init', '-q'], ['add', '-A']): subprocess.run(['git', *command], cwd=top, check=True)
    return top


@pytest.mark.parametrize('command', ['nbdev.doclinks:nbdev_export', 'nbdev.clean:nbdev_clean'], ids=lambda c: c.split(':')[1])
def test_nbdev_changes_nothing(command, copy):
    module, function = command.split(':')
    before = files(copy)
    environment = {k: v for k, v in os.environ.items() if k != 'IN_TEST'} | {'PYTHONPATH': str(copy)}
    run = subprocess.run([sys.executable, '-c', f'import sys; sys.argv = ["x"]; from {module} import {function} as f; f()'],
                         cwd=copy, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    after = files(copy)
    changed = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
    assert not changed, f'`{function}` changes {changed}: run `make export` and commit'


def test_readme_is_what_the_index_makes():
    assert not readme.stale(), f'{readme.stale()} differ from what nbs/index.ipynb makes: run `make export` and commit'


def test_readme_shows_the_two_commands_first():
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    first = re.search(r'^```\w*\n(.*?)^```', text, re.M | re.S)[1]
    assert [l.split('#')[0].strip() for l in first.splitlines()] == ['make demo', 'make test']
    assert re.search(r'^make test VENV=', (ROOT / '.ci' / 'run').read_text(encoding='utf-8'), re.M), '.ci/run does not call the README\'s test command'


def test_readme_says_how_to_install():
    "Into one's own environment, from a clone or from where settings.ini says that the source lies."
    text, url = (ROOT / 'README.md').read_text(encoding='utf-8'), pages.settings().get('git_url')
    assert '`pip install .`' in text and re.findall(r'pip install git\+([^`\s]+)', text) == ([url] if url else [])


def test_readme_links_resolve():
    for url in re.findall(r'\]\(([^)\s]+)\)', (ROOT / 'README.md').read_text(encoding='utf-8')):
        if not re.match(r'https?:|#', url): assert (ROOT / url.split('#')[0]).exists(), f'README.md links to {url}, which is not there'


def test_make_describes_every_target():
    text = (ROOT / 'Makefile').read_text(encoding='utf-8')
    targets = set(re.search(r'^\.PHONY: (.*)$', text, re.M)[1].split())
    said = subprocess.run(['make', '--no-print-directory', 'help'], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {'demo', 'test', 'docs', 'lab', 'clean'} <= targets
    for target in targets: assert re.search(rf'make {target}\s+\S.{{10,}}', said), f'`make help` does not describe {target}'


# --- notebooks ------------------------------------------------------------------------------------------------------

@each_notebook
def test_notebook_is_clean_and_small(path):
    "No counts, no widget that is dead on a page, no colour codes, stable ids, at most 500 KB."
    assert path.stat().st_size <= 500_000, f'{path.stat().st_size / 1000:.0f} KB'
    notebook = json.loads(path.read_text(encoding='utf-8'))
    ids = [c.get('id') for c in notebook['cells']]
    assert all(ids) and len(set(ids)) == len(ids), 'cells without an id, or two with the same'
    for cell in notebook['cells']:
        assert cell.get('execution_count') is None, f'cell {cell["id"]} keeps its execution count'
        for o in cell.get('outputs', []):
            mimes = o.get('data', {})
            assert not any('widget' in m for m in mimes), f'cell {cell["id"]} stores a widget: dead without a kernel'
            assert o['output_type'] != 'error', f'cell {cell["id"]} stores an error'
            assert o.get('name') != 'stderr', f'cell {cell["id"]} stores noise: {"".join(o["text"])[:200]}'
            text = json.dumps(o)
            assert '\\u001b[' not in text, f'cell {cell["id"]} stores colour codes'
            assert not re.search(r'/(home|root|tmp|Users|work)/\w', text), f'cell {cell["id"]} stores a path of one machine'


@each_notebook
def test_notebook_begins_with_title_and_promise(path):
    first = next(body for kind, _, body, _ in cells(path) if kind == 'markdown')
    assert re.match(r'# [^\n]+\n+> \S', first), f'the first text must begin with "# Title" and "> promise", and is\n{first[:300]}'


@each_notebook
def test_links_are_alive(path):
    "What a notebook links to lies where it says, from its own folder: a click in JupyterLab opens it. (Anchors: test_site.)"
    texts = [re.sub(r'^```.*?^```\s*?$|`[^`\n]+`', '', body, flags=re.M | re.S) for kind, _, body, _ in cells(path) if kind == 'markdown']
    links = [u for text in texts for u in re.findall(r'\]\(([^)\s]+)[)\s]', text) + re.findall(r'(?:src|href)="([^"]+)"', text)]
    dead = [u for u in links if not re.match(r'[a-z][a-z+.-]*:|#', u) and not (path.parent / u.split('#')[0]).exists()]
    assert not dead, f'links to {dead}, which are not there'


@each_notebook
def test_mathematics_is_written_with_single_backslashes(path):
    r"Two before a letter or a comma are a line break and a word in italics: `\\binom` is no binomial."
    for kind, _, body, _ in cells(path):
        if kind != 'markdown': continue
        text = re.sub(r'^```.*?^```\s*?$|`[^`\n]+`', '', body, flags=re.M | re.S)
        twice = [m for m in re.findall(r'\$\$.+?\$\$|\$[^$]+\$', text, re.S) if re.search(r'\\\\[a-zA-Z,]', m)]
        assert not twice, f'doubled backslashes: {twice}'


def inside_long_strings(source):
    "Line numbers within triple-quoted strings: style sheets and scripts, which Python's line length does not concern."
    found = [n for n in ast.walk(tree(source)) if isinstance(n, ast.Constant) and isinstance(n.value, str) and n.end_lineno > n.lineno]
    return {line for n in found for line in range(n.lineno, n.end_lineno + 1)}


@each_notebook
def test_code_is_narrow(path):
    wide = []
    for kind, _, _, cell in cells(path):
        if kind != 'code': continue
        source = ''.join(cell['source']); free = inside_long_strings(source)
        wide += [f'{len(l)} columns: {l.strip()}' for i, l in enumerate(source.splitlines(), 1) if len(l) > 100 and i not in free]
    assert not wide, '\n'.join(wide)


def exported_functions(path):
    "(function, source lines of its cell) for every function of the exported cells of a notebook, methods included; one inside another is nobody's to call."
    for kind, said, body, _ in cells(path):
        if kind == 'code' and {'export', 'exports'} & said.keys():
            for node in (m for n in tree(body).body for m in (n.body if isinstance(n, ast.ClassDef) else [n])):
                if isinstance(node, ast.FunctionDef): yield node, body.splitlines()


@each_notebook
def test_public_parameters_are_documented(path):
    "Every parameter of a public function has a trailing comment."
    bare = []
    for function, lines in exported_functions(path):
        if function.name.startswith('_'): continue
        own = [a for a in function.args.posonlyargs + function.args.args + function.args.kwonlyargs if a.arg not in ('self', 'cls')]
        bare += [f'{function.name}: nothing is said of `{a.arg}`' for a in own if '#' not in lines[a.end_lineno - 1][a.end_col_offset:]]
    assert not bare, '\n'.join(bare)


@each_notebook
def test_a_plot_is_the_last_thing_a_cell_does(path):
    "Its picture is the value of the cell; with an assertion behind it nothing would be seen."
    lost = [ast.unparse(n)[:60] for kind, _, body, _ in cells(path) if kind == 'code' for n in tree(body).body[:-1]
            if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call) and re.search(r'_plots?$', getattr(n.value.func, 'id', ''))]
    assert not lost, lost


@each_notebook
def test_imports_stand_alone(path):
    "nbdev runs cells that import while it builds the docs, without the cells before them: code among imports would fail there."
    for kind, said, body, cell in cells(path):
        if kind != 'code' or 'hide' in said or {'export', 'exports'} & said.keys() or body.startswith('%%writefile'): continue
        imports = [isinstance(n, (ast.Import, ast.ImportFrom)) for n in tree(body).body]
        assert all(imports) or not any(imports), f'cell {cell["id"]} mixes imports with code: {body.splitlines()[0]!r}'


@each_notebook
def test_a_notebook_of_the_library_ends_with_exercises(path):
    if not any('default_exp' in said for _, said, _, _ in cells(path)): return
    assert any(k == 'markdown' and re.search(r'^#+ .*exercise', b, re.M | re.I) for k, _, b, _ in cells(path)), 'no exercises'


def test_every_notebook_is_in_the_sidebar():
    listed = []
    for item in pages.quarto_yml()['website']['sidebar']['contents']:
        names = item['contents'] if 'section' in item else [item['href']]
        listed += [p.relative_to(NBS).as_posix() for p in NBS.glob(names)] if isinstance(names, str) else names
    there = [p.relative_to(NBS).as_posix() for p in NOTEBOOKS]
    assert sorted(listed) == sorted(there), f'_quarto.yml lacks {sorted(set(there) - set(listed))} and lists {sorted(set(listed) - set(there))}, which are not there'


def test_the_index_is_a_map_of_all_notebooks():
    text = '\n'.join(body for kind, _, body, _ in cells(NBS / 'index.ipynb') if kind == 'markdown')
    missing = [i for i in IDS if i != 'index' and f']({i}.ipynb)' not in text]
    assert not missing, f'the index does not lead to {missing}'


# --- the library ----------------------------------------------------------------------------------------------------

def sidebar_order():
    "Notebooks in the order of `_quarto.yml`, which is the reading order and the order of imports."
    found = []
    for item in pages.quarto_yml()['website']['sidebar']['contents']:
        names = item['contents'] if 'section' in item else [item['href']]
        found += [p.relative_to(NBS).as_posix() for p in sorted(NBS.glob(names))] if isinstance(names, str) else names
    return [n.removesuffix('.ipynb') for n in found]


def module_of(name):
    "The module of a notebook: its own path, the number of the reading path apart."
    folder, _, stem = name.rpartition('/')
    return '.'.join(filter(None, [folder.replace('/', '.'), re.sub(r'^\d+_', '', stem)]))


ORDER = {module_of(n): i for i, n in enumerate(sidebar_order())}


def module_name(path): return '.'.join(path.relative_to(ROOT / 'ggr_nb').with_suffix('').parts)


@each_notebook
def test_a_module_has_the_path_of_its_notebook(path):
    name = path.relative_to(NBS).with_suffix('').as_posix()
    said = [re.search(r'default_exp\s+(\S+)', ''.join(c['source']))[1] for _, d, _, c in cells(path) if 'default_exp' in d]
    assert said in ([], [module_of(name)]), f'{name} exports to {said}'
    assert re.fullmatch(r'(\d\d_\w+|index|hour)', name) or re.fullmatch(r'(beyond|train|paper|show|guides|studies)/[a-z]\w*', name), \
        f'{name}: numbers are for the reading path only, everything else lies in its folder'


def imported(path):
    "(top-level names that a module imports anywhere in it, the modules of this library that it imports, with their folders)"
    others, inside = set(), set()
    package = ('ggr_nb.' + module_name(path)).split('.')[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            for a in node.names:
                others.add(a.name.split('.')[0])
                if a.name.startswith('ggr_nb.'): inside.add(a.name.removeprefix('ggr_nb.'))
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            full = base + (node.module.split('.') if node.module else [])
            if full[0] != 'ggr_nb': others.add(full[0]); continue
            inside |= {'.'.join(full[1:])} | {'.'.join(full[1:] + [a.name]) for a in node.names}
    return others - {'ggr_nb'}, {m for m in inside if m in ORDER}


@each_module
def test_public_functions_say_what_they_do(path):
    "A docstring for every public class, function and method; a function in one line has its remark behind it."
    def undocumented(body, prefix=''):
        for n in body:
            if not isinstance(n, (ast.FunctionDef, ast.ClassDef)) or n.name.startswith('_'): continue
            if not ast.get_docstring(n) and n.end_lineno > n.lineno: yield prefix + n.name
            if isinstance(n, ast.ClassDef): yield from undocumented(n.body, f'{n.name}.')
    silent = list(undocumented(ast.parse(path.read_text(encoding='utf-8')).body))
    assert not silent, f'without a docstring: {silent}'


def test_scripts_import_nothing_that_they_do_not_use():
    scripts = [p for folder in ('tests', 'benchmarks', 'experiments', 'site') for p in (ROOT / folder).glob('*.py')]
    trees = {p: ast.parse(p.read_text(encoding='utf-8')) for p in scripts}
    taken = {(n.module, a.name) for t in trees.values() for n in ast.walk(t) if isinstance(n, ast.ImportFrom) for a in n.names}
    idle = []
    for path, module in trees.items():
        read = {n.id for n in ast.walk(module) if isinstance(n, ast.Name)}
        bound = [a.asname or a.name for n in module.body if isinstance(n, (ast.Import, ast.ImportFrom)) for a in n.names]
        # `import a.b` is done for what it does, and a name may be there for a neighbour
        idle += [f'{path.name}: {n}' for n in bound if '.' not in n and n not in read and (path.stem, n) not in taken]
    assert not idle, idle


@each_module
def test_module_imports_only_lower_ones(path):
    own = module_name(path)
    assert own in ORDER, f'{own} comes from no notebook: delete it'
    later = sorted(name for name in imported(path)[1] - {own} if ORDER[name] > ORDER[own])
    assert not later, f'{own} imports {later}, which stand behind it in _quarto.yml'


@each_module
def test_module_imports_no_private_name_of_another(path):
    "What begins with _ is nobody else's business; what another module needs has a name for it."
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.ImportFrom) and (node.level or node.module.split('.')[0] == 'ggr_nb'):
            private = [a.name for a in node.names if a.name.startswith('_')]
            assert not private, f'line {node.lineno} imports {private}: rename them where they are defined'


@each_module
def test_modules_import_only_what_is_required(path):
    "settings.ini names what the library imports; numpy comes with torch, pillow with torchvision and matplotlib."
    cfg = configparser.ConfigParser(delimiters=['='], interpolation=None)
    cfg.read(ROOT / 'settings.ini', encoding='utf-8')
    required = {re.split(r'[<>=!~\[]', r)[0] for r in cfg['DEFAULT']['requirements'].split()}
    extra = {re.split(r'[<>=!~\[]', r)[0] for k in ('cluster_requirements', 'models_requirements') for r in cfg['DEFAULT'].get(k, '').split()}
    allowed = {'sklearn' if r == 'scikit-learn' else r for r in required} | {'numpy', 'PIL'} | set(sys.stdlib_module_names)
    unknown = imported(path)[0] - allowed
    assert unknown <= extra, f'{path.name} imports {sorted(unknown - extra)}, which settings.ini does not require'


@each_module
def test_module_knows_no_folder_beside_the_checkout(path):
    "Data and results lie where the user says, in the working folder, in the checkout or in the user's cache."
    strings = [n.value for n in ast.walk(ast.parse(path.read_text(encoding='utf-8'))) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    assert not [s for s in strings if s == 'shared' or re.search(r'(^|/)shared/', s)], f'{path.name} looks beside the checkout'


BLOCKED = '''
import importlib, sys
class Without:
    def __init__(self, finder): self.finder = finder
    def find_spec(self, name, *args): return None if name.split('.')[0] in {names!r} else self.finder.find_spec(name, *args)
sys.meta_path[:] = [Without(f) for f in sys.meta_path]
import ggr_nb
for module in {modules!r}: importlib.import_module('ggr_nb.' + module)
print('imported', *{modules!r})
'''

def import_without(*names, modules):
    code = BLOCKED.format(names=set(names), modules=modules)
    return subprocess.run([sys.executable, '-c', code], cwd=ROOT, env=os.environ | {'PYTHONPATH': str(ROOT)}, capture_output=True, text=True)


def test_imports_without_widgets_and_scikit_learn():
    "Every module but explore works where ipywidgets, scikit-learn, IPython and ray are not installed."
    modules = [module_name(p) for p in LIBRARY if p.stem != 'explore']
    run = import_without('ipywidgets', 'sklearn', 'IPython', 'ray', 'nbdev', modules=modules)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ['imported', *modules]


def test_commands_and_the_trainer_start_without_what_they_may_not_need():
    "torchvision brings the compiler with it, two seconds; a refused word or a table should not wait for that."
    run = import_without('ipywidgets', 'sklearn', 'torchvision', 'matplotlib', 'sympy', modules=['paper.commands', 'train.training', 'paper.demo'])
    assert run.returncode == 0, run.stderr


def test_blocking_an_import_blocks_it():
    "The test above would fail if a module needed what it takes away."
    run = import_without('torch', modules=['masks'])
    assert run.returncode and "No module named 'torch'" in run.stderr


def test_every_public_symbol_is_exported():
    "`__all__` of each module is what its notebook defines and does not hide."
    for path in LIBRARY:
        module = ast.parse(path.read_text(encoding='utf-8'))
        listed = next(ast.literal_eval(n.value) for n in module.body if isinstance(n, ast.Assign) and getattr(n.targets[0], 'id', '') == '__all__')
        defined = {n.name for n in module.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith('_')
                   and not any('patch' in ast.unparse(d) for d in n.decorator_list)}
        assert defined <= set(listed), f'{path.name}: {defined - set(listed)} not in __all__'


def test_versions_agree():
    cfg = configparser.ConfigParser(delimiters=['='], interpolation=None)
    cfg.read(ROOT / 'settings.ini', encoding='utf-8')
    version = cfg['DEFAULT']['version']
    assert f'__version__ = "{version}"' in (ROOT / 'ggr_nb' / '__init__.py').read_text(encoding='utf-8')
    assert f'## {version}' in (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
