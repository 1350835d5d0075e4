"""Fuzzing guided by coverage, of the parsers that are plain Python: the inputs of test_fuzz.py, grown towards new code.

Needs atheris (``pip install -e '.[fuzz]'``). From the repository's folder, with any option of libFuzzer::

    python -m tests.faults.guided yaml -max_total_time=60
"""

import sys

import atheris

with atheris.instrument_imports(include=["genas", "supernet", "yaml"]):
    from tests.faults import test_fuzz

TARGETS = {
    "yaml": test_fuzz.test_yaml,
    "architectures": test_fuzz.test_architectures_and_names,
    "graphs": test_fuzz.test_graphs,
}


def main():
    """Run the target that is named first until something fails or a limit is reached."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"expected one of {', '.join(TARGETS)}")
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target.hypothesis.fuzz_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
