"""Judges what the fuzzing client reports, and writes the table in docs/autobahn.md."""

import json
import sys
from collections import Counter

SECTIONS = {
    1: "Framing",
    2: "Pings and pongs",
    3: "Reserved bits",
    4: "Opcodes",
    5: "Fragmentation",
    6: "UTF-8",
    7: "Closing",
    9: "Sizes",
    10: "Fragmentation by the peer",
    12: "Compression, sizes of messages",
    13: "Compression, parameters",
}
AGENTS = {"http": "WebSocket-over-HTTP", "native": "WebSocket"}
HEAD = """# Autobahn

What the fuzzing client of [Autobahn|Testsuite](https://github.com/crossbario/autobahn-testsuite) 25.10.1 finds when it talks to an origin through the hub.
The origin sends every message back; the hub reaches it by WebSocket-over-HTTP or by a WebSocket of its own.
`tests/autobahn/run` runs all cases again and writes this page; it fails if one of them does.

*Non-strict* is conforming: what follows on a broken rule is right, but a message just before it is not sent back any more.
*Informational* cases observe what RFC 6455 leaves open.
A close that is not clean counts as a failure, as does a case that could not be run.
"""
OMITTED = """
Over HTTP, the cases with messages above 200,000 bytes are left out (9.1.2 to 9.1.6, 9.2.2 to 9.2.6, 9.3 to 9.6): that is what the hub keeps of one client for its origin, and it closes with code 1009 beyond that.
"""


def main(index, page=None):
    with open(index, encoding="utf-8") as file:
        agents = json.load(file)
    text = table(agents)
    print(text)
    failures = [
        f"{agent} {case}: {result['behavior']}, close {result['behaviorClose']}"
        for agent, cases in agents.items()
        for case, result in sorted(cases.items(), key=lambda item: number(item[0]))
        if judge(result) == "failed"
    ]
    failures += [f"{agent}: no cases" for agent in AGENTS if not agents.get(agent)]
    if failures:
        print("\n".join(failures))
        return 1
    if page:
        with open(page, "w", encoding="utf-8") as file:
            file.write(HEAD + "\n" + text + OMITTED)
    return 0


def judge(result):
    if result["behaviorClose"] in ("OK", "INFORMATIONAL"):
        verdicts = {"OK": "ok", "NON-STRICT": "non-strict", "INFORMATIONAL": "informational"}
        return verdicts.get(result["behavior"], "failed")
    return "failed"


def table(agents):
    lines = [
        "| Section | Origin | Cases | OK | Non-strict | Informational | Failed |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for section, title in SECTIONS.items():
        for agent, origin in AGENTS.items():
            results = agents.get(agent, {}).items()
            found = Counter(judge(result) for case, result in results if number(case)[0] == section)
            if found:
                lines.append(row(f"{section} {title}", origin, found))
    for agent, origin in AGENTS.items():
        found = Counter(judge(result) for result in agents.get(agent, {}).values())
        lines.append(row("All", origin, found))
    return "\n".join(lines) + "\n"


def row(section, origin, found):
    counts = [found[verdict] for verdict in ("ok", "non-strict", "informational", "failed")]
    return " | ".join([f"| {section}", origin, *map(str, [sum(counts), *counts])]) + " |"


def number(case):
    return [int(part) for part in case.split(".")]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
