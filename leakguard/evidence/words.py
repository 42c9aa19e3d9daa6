"""What the evidence says, in the words that the text report and the page share."""

from __future__ import annotations

from typing import Final

from leakguard.evidence import Evidence, Group, ProcessRecord, Recoveries, Span
from leakguard.judging.wording import duration
from leakguard.prose import phrases

_NAMES_SHOWN: Final = 5


def headline(evidence: Evidence, known: int | None = None) -> str:
    """How much of everything; with `known`, how many of the places a baseline has."""
    found = evidence.tally()
    words = phrases.tally(found["leak"], found["suspect"], len(evidence.groups))
    if known is not None and evidence.groups:
        words += f", {known} of them known"
    if found["advice"]:
        words += f"; advice for {phrases.plural(found['advice'], 'nested acquire')}"
    if evidence.shortages:
        shortages = sum(int(shortage.total) for shortage in evidence.shortages.values())
        words += f"; no connection left {phrases.plural(shortages, 'time')}"
    return f"{words}; {processes(len(evidence.processes))}"


def processes(count: int) -> str:
    """``1 process``, ``2 processes``."""
    return f"{count} process{'' if count == 1 else 'es'}"


def owners(group: Group) -> list[str]:
    """Who acquired, the first few of them."""
    words = [" ".join(phrases.owner_words(*key)) or "unknown" for key in list(group.owners)[:_NAMES_SHOWN]]
    beyond = len(group.owners) - len(words)
    if beyond:
        words.append(f"and {beyond}{' or more' if group.more_owners else ''} others")
    return words


def pools(group: Group) -> list[str]:
    """Which pools it was, the first few of them."""
    found = list(group.pools.values())
    words = [phrases.pool_words(pool.name, pool.library) for pool in found[:_NAMES_SHOWN]]
    return [*words, f"and {len(found) - len(words)} others"] if len(found) > len(words) else words


def seen(group: Group) -> list[str]:
    """When, and in how many processes."""
    return [*span(group.span), *([f"in {processes(group.processes)}"] if group.processes else [])]


def span(seen: Span) -> list[str]:
    """From when to when; nothing where no time is known."""
    if seen.first is None or seen.last is None:
        return []
    first, last = (f"{moment:%Y-%m-%d %H:%M:%S}" for moment in (seen.first, seen.last))
    return [f"{first} UTC" if first == last else f"{first} to {last} UTC"]


def held_for(group: Group) -> list[str]:
    """How long at most; nothing for a leak of a pool."""
    return [f"{duration(group.longest)} at most"] if group.longest is not None else []


def recovered(recoveries: Recoveries | None) -> list[str]:
    """How often a suspect came back after all; nothing if none did."""
    if recoveries is None:
        return []
    return [f"{phrases.plural(recoveries.count, 'time')}, after {duration(recoveries.longest)} at most"]


def healed(group: Group) -> list[str]:
    """Whether the library took dropped connections back; nothing where none was dropped."""
    match bool(group.healed[True]), bool(group.healed[False]):
        case True, False:
            return ["yes, the library took the connections back by itself"]
        case False, True:
            return ["no"]
        case True, True:
            return ["some, but the library did not take all of the connections back"]
        case _:
            return []


def process(evidence: Evidence, record: ProcessRecord) -> list[str]:
    """What is worth saying about a process, beside its name; nothing for one in which all went well."""
    lines = [
        phrases.summary_words(summary)
        for summary in record.summaries
        if any(summary.leaks.values()) or summary.internal_errors
    ]
    for summary in record.summaries if record.adds_up is False else ():
        accounted = summary.released + summary.held + summary.leaked
        if accounted != summary.acquired:
            lines.append(f"does not add up: {summary.acquired} acquired, {accounted} accounted for")
    if not evidence.ended(record):
        lines.append("ended without a summary: killed, or still running")
    return lines
