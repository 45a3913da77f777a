"""Where the repository and what it keeps lie, for every test in whatever folder."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
DOCS = ROOT / "docs"
FIXTURES = ROOT / "tests" / "fixtures"  # checkpoints that real trainers wrote
SAMPLE_RUN = ROOT / "sample_reports" / "run"
SHARED = ROOT.parent / "shared"  # beside the repository, where there is one
