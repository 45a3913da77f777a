"""Every figure of a report as PNG and SVG files for a paper."""

from __future__ import annotations

from pathlib import Path

from auditor.reports import Report, write_file
from auditor.reports.charts import Chart, curves, distances, networks
from auditor.reports.drawing import heats, plates, printed


def write(report: Report, folder: Path) -> list[Path]:
    """Write every figure of a report as PNG and SVG; return the paths.

    Raises
    ------
    AuditError
        If a file cannot be written.
    """
    import matplotlib

    paths = []
    with matplotlib.rc_context(printed.LOOK):
        drawn = {each.key: printed.draw(each) for each in charts(report)}
        for name, figure in (drawn | heats.drawn(report) | plates.plates(report)).items():
            for suffix in ("png", "svg"):
                paths.append(folder / f"{name}.{suffix}")
                write_file(paths[-1], printed.saved(figure, suffix))
    return paths


def charts(report: Report) -> list[Chart]:
    """Return every chart of a report."""
    return [*curves.charts(report), *networks.charts(report), *distances.charts(report, distances.Nearest(report))]
