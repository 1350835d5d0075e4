"""A made-up ``front.json``, as the stage writes it."""

from dataclasses import asdict

import numpy as np

from analysis.fronts import Member, front_volume, member_to_json, non_dominated

REFERENCE = (5e6, 0.15)
PLACES = {"cpu batch 1": 2e-5, "cuda batch 64": 3e-6}


def made_up(series, count, worse=0.0, split="validation"):
    """Networks of falling error, half of them dominated."""
    random = np.random.default_rng(len(series))
    found = []
    for number in range(count):
        params = int(random.integers(400_000, 4_800_000))
        error = float(0.025 + 0.07 * np.exp(-params / 1e6) + worse + random.exponential(0.005))
        latency = {name: params * scale for name, scale in PLACES.items()}
        found.append(Member(f"{series}{number}", series, error, 5_000, split, params, 150 * params, latency))
    return found


def volume_of(members):
    return asdict(front_volume(members, "params", *REFERENCE, seed=0, draws=50))


def front_content(count=20, beside=10, **changes):
    """The object in the file; ``changes`` take the place of its keys."""
    own, others = made_up("preferences", count), made_up("published", beside, 0.01)
    on = non_dominated(own, "params")
    rows = [
        {
            **member_to_json(one),
            "key": f"darts-{one.name}",
            "architecture": f"normal sep_conv_3x3@0+skip_connect@1 {'dil_conv_5x5@1+max_pool_3x3@0 ' * 6}{one.name}",
            "preference": number / count,
            "member": "narrow",
            "validation_error": one.error,
            "test_error": one.error + 0.002 if one in on else None,
            "cheap": 0.8,
            "on_front": one in on,
            "seeds": 1,
        }
        for number, one in enumerate(own)
    ]
    history = [
        {
            "epoch": epoch, "loss": 2.3 / epoch, "accuracy": 0.5, "cost": 2e6, "skip_share": epoch / 40,
            "dominant": {"skip_connect": epoch / 40, "max_pool_3x3": 0.1, "sep_conv_3x3": 0.9 - epoch / 40},
        }
        for epoch in range(1, 31)
    ]  # fmt: skip
    content = {
        "method": "preferences",
        "cost": "params",
        "reference": {"cost": REFERENCE[0], "error": REFERENCE[1]},
        "members": rows,
        "hypervolume": volume_of(own),
        "distinct": 64,
        "candidates": 35,
        "ranked": 30,
        "trained": count,
        "search": {"seconds": 400.0, "epochs": 30, "genotypes": 8, "collapsed": False, "history": history},
        "cheap_tau": {"tau": 0.12, "ci95": [-0.2, 0.4], "architectures": 20},
        "beside": [
            {
                "name": "published",
                "members": [member_to_json(one) for one in others],
                "hypervolume": volume_of(others),
            }
        ][: len(others)],
        "seconds": 4000.0,
    }
    return content | changes
