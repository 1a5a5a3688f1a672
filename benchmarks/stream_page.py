"""The figures of benchmarks/streams.py as tables for docs/streams-speed.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def page(result: Mapping[str, Any]) -> str:
    """Markdown of the parts that ``result`` has."""
    parts = []
    if "throughput" in result:
        parts.append(_throughput(result["throughput"]))
    if "first_batch" in result:
        found = result["first_batch"]
        parts.append(f"| first batch of {found['shards']} shards, batch {found['batch_size']} | seconds |\n|---|--:|\n")
        parts[-1] += "".join(f"| {name} | {seconds:.2f} |\n" for name, seconds in found["seconds"].items())
    if "plan" in result:
        parts.append(_plan(result["plan"]))
    if "cached_teacher" in result:
        parts.append(_teacher(result["cached_teacher"]))
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    parts.append(f"{result['cores']} cores; {versions}.\n")
    return "\n".join(parts)


def _throughput(rows: Any) -> str:
    names = list(rows[0]["pictures_a_second"])
    lines = [
        "| decoder | workers | " + " | ".join(names) + " | by the best peer | by the bare loop |",
        "|---|--:|" + "--:|" * (len(names) + 2),
    ]
    for row in rows:
        cells = [f"{row['pictures_a_second'][name]['median']:.0f}" for name in names]
        ratios = [f"{row['by_best_peer']:.2f} ({row['best_peer']})", f"{row['by_bare_loop']:.2f}"]
        decoder = row["decoder"].removesuffix(" decoder")
        lines.append(" | ".join([f"| {decoder}", str(row["workers"]), *cells, *ratios]) + " |")
    return "\n".join(lines) + "\n"


def _plan(plan: Mapping[str, Any]) -> str:
    figures = {
        "build the plan": f"{plan['build_seconds']:.2f} s",
        "the samples of batch 0": f"{1e3 * plan['batch_at_0_seconds']:.0f} ms",
        "the samples of the batch at position 10⁹": f"{1e3 * plan['batch_at_1e9_seconds']:.0f} ms",
        "memory for that": f"{plan['batch_peak_bytes'] / 2**20:.1f} MiB",
    }
    title = f"| {plan['shards']:,} shards, {plan['samples']:,} samples, batch {plan['batch_size']} | |\n|---|--:|\n"
    return title.replace(",", " ").replace("  ", ", ") + "".join(
        f"| {key} | {value} |\n" for key, value in figures.items()
    )


def _teacher(found: Mapping[str, Any]) -> str:
    low, high = found["interval"]
    return (
        f"A step with a cached teacher takes {found['ratio']:.3f} times a step without any (95 % interval {low:.3f} to "
        f"{high:.3f}, {found['pairs']} pairs; {found['cached_ms']:.0f} and {found['without_teacher_ms']:.0f} ms). The "
        f"cache takes {found['bytes_a_sample']:.0f} bytes a sample, 768 of them the 384 float16 numbers.\n"
    )
