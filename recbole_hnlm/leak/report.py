"""What a leak check has compared, as a table."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Finding:
    """One thing compared.

    Attributes:
        compared: What.
        equal: Whether it was the same; None where the method has no such thing.
        detail: Where it first differs, or why there is nothing to compare.
        repeatable: Whether two runs on the same data agree on it; None where that was not tried.
    """

    compared: str
    equal: bool | None
    detail: str = ""
    repeatable: bool | None = None

    @property
    def told(self) -> str:
        """The verdict in a word."""
        if self.equal is None:
            return "-"
        if self.equal:
            return "equal"
        return "differs, by chance too" if self.repeatable is False else "DIFFERS"


@dataclass(frozen=True)
class LeakReport:
    """Result of a leak check.

    Attributes:
        name: The method.
        findings: What was compared, in the order of a run.
        notes: What the check could not look at, and other remarks.
    """

    name: str
    findings: list[Finding]
    notes: list[str] = field(default_factory=list)

    @property
    def leaks(self) -> bool:
        """Whether held-out data reached the method, as far as the check can see."""
        return any(finding.equal is False and finding.repeatable is not False for finding in self.findings)

    @property
    def decided(self) -> bool:
        """Whether the method is repeatable enough to be judged."""
        return all(finding.repeatable is not False for finding in self.findings)

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.leaks:
            first = next(one for one in self.findings if one.equal is False and one.repeatable is not False)
            return f"LEAK: {first.compared} depends on held-out data"
        if not self.decided:
            return "UNDECIDED: two runs on the same data differ already; seed the method, or try --use_gpu=False"
        return "no leak found"

    def with_repeat(self, repeated: list[Finding]) -> LeakReport:
        """The same report, told what two runs on the same data agree on."""
        same = {finding.compared: finding.equal for finding in repeated}
        found = [
            replace(one, repeatable=same.get(one.compared)) if one.equal is False else one for one in self.findings
        ]
        return replace(self, findings=found)

    def table(self) -> str:
        """Markdown: a row for each thing compared, the notes, the verdict."""
        rows = [("compared", "result", "where it first differs"), ("---", "---", "---")]
        rows += [(finding.compared, finding.told, finding.detail) for finding in self.findings]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
                 for row in rows]  # fmt: skip
        return "\n".join([*lines, "", *self.notes, f"{self.name}: {self.verdict}"])
