"""Installation. Versions are ranges here; the exact set that the tests ran with is in constraints.txt."""

from setuptools import setup

PACKAGES = ["supernet", "training", "data_gen", "predictor", "evolution", "analysis", "genas", "config"]

setup(
    name="genas",
    version="0.1.0",
    description="Finds a network for your own images under a hard limit.",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=PACKAGES,
    package_data={
        "config": ["*.yml", "spaces/*.yml"],
        **{name: ["py.typed", "*.html", "*.cpp"] for name in PACKAGES if name != "config"},
    },
    install_requires=[
        "torch>=2.11",
        "torchvision>=0.26",
        "torch-geometric>=2.8",
        "numpy>=2.0",
        "scipy>=1.14",
        "pyyaml>=6.0",
        "thop>=0.1.1.post2209072238",
        "setuptools; python_version >= '3.12'",  # thop imports distutils
        "networkx>=3.3",
        "pydantic>=2.11",  # settings checked at the door
        "typer>=0.15",  # the command line
        "rich>=13.9",  # progress with time left
        "safetensors>=0.5",  # weights without pickle
        "scikit-learn>=1.5",  # bundled digits, ridge
        "pillow>=11.0",  # folders of images
        "matplotlib>=3.10",  # plots of the report
        "jinja2>=3.1",  # the report's page
    ],
    extras_require={
        "pymoo": ["pymoo>=0.6.1"],  # search --engine pymoo
        "ray": ["ray[client]>=2.55"],  # --runner ray
        "dev": [
            "ray[client]>=2.55",  # clusters on the loopback address
            "pymoo>=0.6.1",  # the oracle of fronts, ranks and hypervolumes
            "ruff>=0.12",
            "mypy>=1.17",
            "pytest>=8.4",
            "pytest-xdist>=3.7",  # the suite on every core
            "hypothesis>=6.130",
            "types-PyYAML",
            "types-networkx",
            "scipy-stubs",
        ],
        "fuzz": ["atheris>=3.0"],  # fuzzing guided by coverage
    },
    entry_points={"console_scripts": ["genas = genas.cli:main"]},
)
