"""The pictures of a report, as inline SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from steps.common.results import Interval

INK, MUTED, GOOD, BAD, ACCENT = "#1f2933", "#9aa5b1", "#2f855a", "#c53030", "#2b6cb0"
STATUS_COLOURS = {"succeeded": GOOD, "failed": BAD, "running": ACCENT}


def timeline(steps: Sequence[tuple[str, str, float, float]]) -> str:
    """Draws each step as a bar from its first start to its end.

    Args:
        steps: Name, status, start and end (seconds since the run began) of each step, in order.
    """
    figure, axes = _figure(height=0.34 * len(steps) + 0.7)
    for row, (name, status, start, end) in enumerate(steps):
        axes.barh(row, max(end - start, 0.05), left=start, height=0.6, color=STATUS_COLOURS.get(status, MUTED))
        axes.text(end, row, f"  {name}  {end - start:.1f} s", va="center", fontsize=8, color=INK)
    axes.set_yticks([])
    axes.invert_yaxis()
    axes.set_xlabel("seconds since the run began")
    axes.set_xlim(0, max((end for *_, end in steps), default=1.0) * 1.25)
    return _svg(figure)


def bars(counts: Mapping[str, float]) -> str:
    """Draws named counts, largest first."""
    rows = sorted(counts.items(), key=lambda item: -item[1])
    figure, axes = _figure(height=0.3 * len(rows) + 0.5)
    axes.barh([name for name, _ in rows], [count for _, count in rows], height=0.6, color=ACCENT)
    for row, (_, count) in enumerate(rows):
        axes.text(count, row, f" {count:,.0f}", va="center", fontsize=8, color=INK)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    return _svg(figure)


def curve(points: Sequence[Mapping[str, float]], unigram_loss: float, heldout_loss: float) -> str:
    """Draws the training loss over steps, with the unigram baseline and the held-out loss as lines."""
    figure, axes = _figure(height=2.6)
    axes.plot([point["step"] for point in points], [point["loss"] for point in points], color=ACCENT, lw=1.4)
    for loss, label, colour in ((unigram_loss, "unigram baseline", BAD), (heldout_loss, "held-out", GOOD)):
        axes.axhline(loss, color=colour, lw=1, ls="--")
        axes.text(
            1.0,
            loss,
            f" {label} {loss:.3f}",
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=8,
            color=colour,
        )
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss, nats per token")
    return _svg(figure)


def trials(rows: Sequence[tuple[str, float | None, str]], best: str) -> str:
    """Draws the loss of each trial; the best one stands out, pruned and failed ones are pale."""
    figure, axes = _figure(height=0.3 * len(rows) + 0.6)
    for row, (name, loss, status) in enumerate(rows):
        colour = GOOD if name == best else (ACCENT if status == "completed" else MUTED)
        if loss is not None:
            axes.plot(loss, row, "o", color=colour)
        axes.text(loss or 0, row, f"   {name} ({status})", va="center", fontsize=8, color=INK)
    axes.set_yticks([])
    axes.invert_yaxis()
    axes.margins(x=0.3)
    axes.set_xlabel("validation loss, nats per token")
    return _svg(figure)


def interval(difference: Interval) -> str:
    """Draws the difference between challenger and champion with its interval, against zero."""
    figure, axes = _figure(height=1.0)
    colour = GOOD if difference.high < 0 else BAD if difference.low > 0 else MUTED
    axes.plot([difference.low, difference.high], [0, 0], color=colour, lw=3, solid_capstyle="round")
    axes.plot(difference.estimate, 0, "o", color=colour)
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_yticks([])
    axes.set_xlabel("challenger minus champion, nats per byte (left of zero: the challenger is better)")
    return _svg(figure)


def evidence(points: Sequence[Mapping[str, float]], log10_limit: float) -> str:
    """Draws the evidence against the canary and its weight over the looks.

    Args:
        points: `{look, weight, log10_evidence}` of each look.
        log10_limit: Evidence at which the canary is rolled back.
    """
    figure, axes = _figure(height=2.2)
    looks = [point["look"] for point in points]
    axes.step(looks, [point["weight"] for point in points], where="post", color=ACCENT, lw=1.4)
    axes.set_ylabel("canary weight", color=ACCENT)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("look")
    right = axes.twinx()
    right.plot(looks, [point["log10_evidence"] for point in points], color=BAD, lw=1.4, marker=".")
    right.axhline(log10_limit, color=BAD, lw=1, ls="--")
    right.set_ylabel("log10 evidence against it", color=BAD)
    right.spines[["top"]].set_visible(False)
    return _svg(figure)


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, max(height, 0.8)), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK)
    axes.xaxis.label.set_fontsize(8)
    axes.yaxis.label.set_fontsize(8)
    return figure, axes


def _svg(figure: Any) -> str:
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "everloop", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
