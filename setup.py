"""Package metadata, read from settings.ini: nbdev's own setup.py needs pkg_resources, which setuptools no longer has."""
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=['='], interpolation=None)
parser.read(here / 'settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']
extras = {'dev': cfg['dev_requirements'].split()}
for name in ('cluster', 'models'):
    if cfg.get(f'{name}_requirements'): extras[name] = cfg[f'{name}_requirements'].split()

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=(here / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author=cfg['author'],
    author_email=cfg['author_email'],
    project_urls={name: url for name, url in (('Source', cfg.get('git_url')), ('Documentation', cfg.get('doc_host'))) if url},
    license='Apache-2.0',
    keywords=cfg['keywords'],
    classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Education', 'Intended Audience :: Science/Research',
                 f"Natural Language :: {cfg['language']}", 'Operating System :: OS Independent', 'Programming Language :: Python :: 3',
                 'Topic :: Scientific/Engineering :: Artificial Intelligence', 'Framework :: Jupyter', 'Typing :: Typed'],
    packages=find_packages(include=['ggr_nb', 'ggr_nb.*']),
    package_data={'': ['py.typed', '*.js', '*.css']},
    python_requires='>=' + cfg['min_python'],
    install_requires=cfg['requirements'].split(),
    extras_require=extras,
    entry_points={'console_scripts': cfg['console_scripts'].split(),
                  'nbdev': [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"]},
    zip_safe=False,
)
