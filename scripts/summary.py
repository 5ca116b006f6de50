# SPDX-License-Identifier: Apache-2.0
"""The one summary of a test run: reads the JUnit files and exit statuses of its parts.

    summary.py DIRECTORY

DIRECTORY holds PART.status (the exit status of the part's runner) and PART.xml (JUnit) for each
part. Prints what failed, a table, and as last line `N passed, N failed`. A skipped test has not
run, so it counts as failed; so does a part that ran no test, or whose runner ended badly without
saying of which test. Exit status 1 if anything failed.
"""

import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

TIMED_OUT = (124, 137)


@dataclass
class Part:
    """One part of the run. seconds: the tests' own time."""

    name: str
    passed: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


def read(status_file: Path) -> Part:
    """The part whose exit status is in PART.status."""
    part = Part(status_file.stem)
    status = int(status_file.read_text())
    results = status_file.with_suffix(".xml")
    try:
        cases = ET.parse(results).iter("testcase") if results.exists() else iter(())
    except ET.ParseError as error:
        part.failures.append(f"{results.name} is cut short: {error}")
        return part
    for case in cases:
        name = "::".join(filter(None, (case.get("classname"), case.get("name"))))
        part.seconds += float(case.get("time") or 0)
        for tag in ("failure", "error", "skipped"):
            found = case.find(tag)
            if found is not None:
                part.failures.append(f"{name}: {tag}: {first_line(found)}")
                break
        else:
            part.passed += 1
    if status in TIMED_OUT:
        part.failures.append("the part was not done in time")
    elif status and not part.failures:
        part.failures.append(f"the part's runner ended with exit status {status}")
    elif not part.passed and not part.failures:
        part.failures.append("the part ran no test")
    return part


def first_line(found: ET.Element) -> str:
    text = found.get("message") or found.text or "no message"
    return text.strip().splitlines()[0][:150] if text.strip() else "no message"


def main(directory: Path) -> int:
    parts = [read(path) for path in sorted(directory.glob("*.status"))]
    failed = sum(len(part.failures) for part in parts)
    for part in parts:
        for failure in part.failures:
            print(f"FAILED {part.name}: {failure}")
    print(f"\n{'part':<12}{'passed':>8}{'failed':>8}{'seconds':>9}")
    for part in parts:
        print(f"{part.name:<12}{part.passed:>8}{len(part.failures):>8}{part.seconds:>9.1f}")
    print(f"\n{sum(part.passed for part in parts)} passed, {failed} failed")
    return 1 if failed or not parts else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
