import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("ranks.py")


def run(num_ranks, accumulate, num_terms, lacking=()):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])}
    done = subprocess.run(
        [*command, str(SCRIPT), *map(str, (accumulate, num_terms, *lacking))],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("accumulate", "num_terms", "lacking"), [(1, 5, ()), (2, 3, ()), (1, 5, (1, 2, 5, 6)), (2, 3, (1, 2, 5, 6))]
)
def test_two_ranks_have_the_gradient_and_terms_of_one(accumulate, num_terms, lacking):
    """Masked terms and, in one part, contrast; also where rows lack a picture."""
    one, two = run(1, 1, num_terms, lacking), run(2, accumulate, num_terms, lacking)
    assert two["terms"] == pytest.approx(one["terms"], rel=1e-5)
    assert one["gradients"].keys() == two["gradients"].keys()
    for name, gradient in one["gradients"].items():
        assert two["gradients"][name] == pytest.approx(gradient, rel=1e-4, abs=1e-6), name
    for name, kept in one["kept"].items():
        assert two["kept"][name] == pytest.approx(kept, rel=1e-4, abs=1e-6), name
    assert two["looked"]["norms"] == pytest.approx(one["looked"]["norms"], rel=1e-4)
    for label, cosines in one["looked"]["cosines"].items():
        assert two["looked"]["cosines"][label] == pytest.approx(cosines, abs=1e-4)
