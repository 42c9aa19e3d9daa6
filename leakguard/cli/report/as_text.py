"""The report for people."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from leakguard.evidence import Evidence, Group, Recoveries, Shortage, words
from leakguard.known import Known
from leakguard.prose import events, holders, layout, phrases

_PROCESSES_SHOWN: Final = 20


def as_text(evidence: Evidence, known: Known | None = None, *, color: bool = False) -> str:
    """The report. With what is `known` already, each place says whether it is, and the others come first."""
    covered = known.covered(evidence) if known is not None else frozenset()
    blocks = [words.headline(evidence, len(covered) if known is not None else None)]
    for group in evidence.ordered(covered):
        lines = _group_lines(group, evidence.recoveries.get(group.fingerprint), color)
        blocks.append("\n".join([*lines, *_known_lines(group, known)]))
    blocks += [_shortage_text(shortage, color) for shortage in evidence.shortages.values()]
    blocks += [holders.render_snapshots([snapshot], color=color) for snapshot in evidence.snapshots]
    blocks += _processes_text(evidence)
    return "\n\n".join(blocks)


def _group_lines(group: Group, recoveries: Recoveries | None, color: bool) -> list[str]:
    newest = group.newest
    kinds = ", ".join(f"{kind} x{count}" for kind, count in group.counts.items())
    fingerprint = phrases.shown(group.fingerprint)
    lines = [layout.headline(group.verdict.upper(), kinds, fingerprint, phrases.place(newest.site), color=color)]
    lines += layout.acquisition(newest)
    lines += layout.packed("owners", words.owners(group), layout.WIDTH)
    lines += layout.packed("pools", words.pools(group), layout.WIDTH)
    lines += layout.packed("seen", words.seen(group), layout.WIDTH)
    lines += layout.listed("held for", words.held_for(group))
    lines += layout.listed("recovered", words.recovered(recoveries))
    lines += layout.listed("healed", words.healed(group))
    lines += layout.sentences("why", newest.reason, layout.WIDTH)
    lines += layout.remedy(newest, layout.WIDTH)
    return lines


def _known_lines(group: Group, known: Known | None) -> list[str]:
    if known is None:
        return []
    standing, why = known.standing(group.fingerprint, group.counts)
    verdict = "yes" if standing == "known" else "no"
    return layout.sentences("known", f"{verdict}: {why}" if why else verdict, layout.WIDTH)


def _shortage_text(shortage: Shortage, color: bool) -> str:
    lines = [events.render_exhausted(replace(shortage.newest, count=int(shortage.total)), color=color)]
    seen = [*words.span(shortage.span), f"pid {shortage.newest.pid}"]
    return "\n".join([*lines, *layout.packed("seen", seen, layout.WIDTH)])


def _processes_text(evidence: Evidence) -> list[str]:
    told: list[list[str]] = []
    for record in evidence.processes.values():
        name = phrases.process_words(record.pid, record.process, record.host)
        if lines := words.process(evidence, record):
            told.append([f"  {name}: {line}" for line in lines])
    lines = [line for group in told[:_PROCESSES_SHOWN] for line in group]
    if len(told) > _PROCESSES_SHOWN:
        lines.append(f"  ({words.processes(len(told) - _PROCESSES_SHOWN)} more)")
    if quiet := len(evidence.processes) - len(told):
        lines.append(f"  {words.processes(quiet)} without a leak")
    return ["\n".join(["processes:", *lines])] if lines else []
