"""Summary of an import: counts and messages."""

from dataclasses import dataclass, field

MAX_LINES = 100


@dataclass(slots=True)
class Lines:
    """The first lines, and the number of all lines."""

    first: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, line: str) -> None:
        """Add a line. Only the first ones are stored."""
        self.count += 1
        if self.count <= MAX_LINES:
            self.first.append(line)

    def __str__(self) -> str:
        more = [f"  … and {self.count - MAX_LINES:,} more"] if self.count > MAX_LINES else []
        return "\n".join([*(f"  {line}" for line in self.first), *more])


@dataclass(slots=True)
class Figures:
    """Rows of a table: read, created, known from an earlier run, and left out."""

    read: int = 0
    made: int = 0
    known: int = 0
    left_out: int = 0


@dataclass(slots=True)
class Summary:
    """Summary of an import."""

    figures: dict[str, Figures] = field(default_factory=dict)
    left_out: Lines = field(default_factory=Lines)
    notes: Lines = field(default_factory=Lines)
    renumbered: int = 0

    def of(self, table: str) -> Figures:
        """Return the figures of a table."""
        return self.figures.setdefault(table, Figures())

    def leave_out(self, table: str, key: object, why: str) -> None:
        """Record a row that is left out."""
        self.of(table).left_out += 1
        self.left_out.add(f"{table} {key}: {why}")

    def render(self, *, dry_run: bool) -> str:
        """Format the summary for people."""
        head = "Dry run: nothing was written. An import would do this:" if dry_run else "Imported."
        lines = [head, "", f"{'':16}{'read':>12}{'new':>12}{'there':>12}{'left out':>12}"]
        lines += [
            f"{name:16}{f.read:12,}{f.made:12,}{f.known:12,}{f.left_out:12,}"
            for name, f in self.figures.items()
        ]
        if self.renumbered:
            self.notes.add(f"{self.renumbered:,} rows got a new number because theirs was taken")
        for title, found in (("Left out", self.left_out), ("Notes", self.notes)):
            lines += ["", f"{title}:", str(found)] if found.count else []
        return "\n".join(lines)
