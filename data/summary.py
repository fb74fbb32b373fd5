"""Lines of the log on what reading data left out, cut, replaced and passed over."""

from __future__ import annotations

from collections.abc import Mapping

from data.packing import CUT

MOST_FIELDS = 12  # that are named


def lines(skipped: Mapping, redacted: Mapping, unused: Mapping[str, Mapping]) -> list[str]:
    """Arguments as of `Data` in data/pipeline.py."""
    out = []
    for reason, count in skipped.items():
        if reason.endswith(CUT):
            out.append(f"cut {count:,} examples: {reason.removesuffix(CUT)}")
        else:
            out.append(f"passed over {count:,} examples: {reason}")
    out += [f"redacted: {kind}, {count:,} times" for kind, count in redacted.items()]
    for source, fields in unused.items():
        if not fields:
            continue
        most = sorted(fields.items(), key=lambda item: (-item[1], item[0]))
        named = [f"{name[:40]} ({count:,})" for name, count in most[:MOST_FIELDS]]
        more = f" and {len(most) - MOST_FIELDS} more" if len(most) > MOST_FIELDS else ""
        out.append(f"{source}: fields not used: {', '.join(named)}{more}")
    return out
