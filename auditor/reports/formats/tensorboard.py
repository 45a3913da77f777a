"""The report as TensorBoard event files, so that it stands beside the loss curves of the training.

Values and both ends of their intervals are three runs of the folder (``audit``,
``audit-low``, ``audit-high``) with the same tags, so that TensorBoard draws a band. The
global step is the training step.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from auditor.errors import AuditError
from auditor.reports import Report, write_file
from auditor.reports.album import Case, Picture, in_color, png
from auditor.reports.formats.csv import series
from auditor.reports.formats.markdown import escaped

RUNS = {"audit": "value", "audit-low": "low", "audit-high": "high"}
FILE = "events.out.tfevents.0.audit"  # TensorBoard looks for "tfevents"; no time and no host, so the bytes stay
WORST = 8  # samples in one gallery
TILE = 48  # pixels of one picture of a gallery, at least
GAP, PAPER = 2, 255


def write(report: Report, folder: Path) -> list[Path]:
    """Write the event files; return their paths.

    Raises
    ------
    AuditError
        If tensorboard is not installed, or a file cannot be written.
    """
    require()
    found, paths = list(series(report)), []
    for run, column in RUNS.items():
        events = list(scalars(report, found, column))
        if column == "value":
            events += [each for step in report.steps for each in words_and_pictures(report, step)]
        paths.append(folder / run / FILE)
        write_file(paths[-1], records(events))
    return paths


def require() -> None:
    """Refuse to go on without tensorboard."""
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        raise AuditError(
            "tensorboard is not installed.", "--tensorboard", "Install it: pip install 'auditor[tensorboard]'."
        ) from None


def scalars(report: Report, found: list[tuple[str, pd.DataFrame]], column: str) -> Iterator[Any]:
    """Yield one event per series and step with a value, tagged ``metric/twin.space``."""
    asks = dict(report.definitions.question)
    for name, rows in found:
        metric, _, rest = name.partition(".")
        says = asks.get(metric, "")
        for step, value in rows[column].dropna().sort_index().items():
            yield event(step, f"{metric}/{rest}", simple_value=value, says=says)
            says = ""  # a tag is described once


def words_and_pictures(report: Report, step: int) -> Iterator[Any]:
    """Yield the verdict of one step as text, and its worst samples as an image per space."""
    for row in report.tables["verdicts"].itertuples():
        if row.step == step:
            chosen = " (recommended)" if row.recommended else ""
            yield text(step, "verdict", f"**{row.verdict}**{chosen}. {escaped(row.reasons)}")
    if step == report.steps[0]:
        yield text(step, "conclusion", escaped(report.conclusion))
        yield text(step, "caveats", "\n".join(f"- {escaped(each)}" for each in report.caveats))
    for pair, album in report.albums.items():
        for space in report.scope.spaces:
            shown = gallery(album.worst(space, step, WORST))
            if shown is not None:
                yield image(step, "/".join(filter(None, ("worst", space, pair))), shown)


# ---------------------------------------------------------------------------
# Galleries
# ---------------------------------------------------------------------------


def gallery(cases: list[Case]) -> np.ndarray | None:
    """Return uint8 ``[h, w, 3]``: a row per case, worst first, or None where no picture is there.

    Columns: the sample, its nearest own and nearest other image, the twin's sample from the
    same noise, its nearest own image. A picture that is missing is gray.
    """
    rows = [(*case.mine.pictures, *((case.theirs.sample, case.theirs.own) if case.is_paired else ())) for case in cases]
    sizes = [picture.pixels.shape[:2] for row in rows for picture in row if picture.pixels is not None]
    if not sizes:
        return None
    height, width = sizes[0]
    return np.concatenate([np.concatenate([tile(each, height, width) for each in row], axis=1) for row in rows])


def tile(picture: Picture, height: int, width: int) -> np.ndarray:
    """Return one picture in color, enlarged by a whole factor, with a margin at its right and below."""
    scale = max(1, TILE // max(height, width))
    if picture.pixels is None:
        pixels = np.full((height, width, 3), 128, np.uint8)
    else:
        pixels = in_color(picture.pixels)
    large = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    return np.pad(large, ((0, GAP), (0, GAP), (0, 0)), constant_values=PAPER)


# ---------------------------------------------------------------------------
# Event files: the protocol buffers that tensorboard brings along; neither torch nor tensorflow is needed
# ---------------------------------------------------------------------------


def event(step: int, tag: str, says: str = "", plugin: str = "", **value: Any) -> Any:
    """Return one event; its time is 0, so that the same run gives the same bytes."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata

    metadata = SummaryMetadata(summary_description=says, plugin_data=SummaryMetadata.PluginData(plugin_name=plugin))
    return Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, metadata=metadata, **value)]))


def text(step: int, tag: str, markdown: str) -> Any:
    """Return an event of the text dashboard, which reads Markdown."""
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    tensor = TensorProto(dtype=DT_STRING, tensor_shape=TensorShapeProto(), string_val=[markdown.encode()])
    return event(step, tag, plugin="text", tensor=tensor)


def image(step: int, tag: str, pixels: np.ndarray) -> Any:
    """Return an event of the image dashboard."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    height, width, channels = pixels.shape
    picture = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png(pixels))
    says = (
        "Worst first: sample | nearest own | nearest other image | the twin's sample from the same noise | its nearest "
        "own image. Gray: not kept by the run."
    )
    return event(step, tag, says, image=picture)


def records(events: list[Any]) -> bytes:
    """Return an event file as bytes."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    out = io.BytesIO()
    write_record: Callable[[bytes], None] = RecordWriter(out).write
    for each in (Event(file_version="brain.Event:2"), *events):
        write_record(each.SerializeToString(deterministic=True))
    return out.getvalue()
