"""What an import did, counted and in words."""

from dataclasses import dataclass, field

MOST_LINES = 100


@dataclass(slots=True)
class Lines:
    """The first lines of many, and how many there are."""

    first: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, line: str) -> None:
        """Keep the line while there are few."""
        self.count += 1
        if self.count <= MOST_LINES:
            self.first.append(line)

    def __str__(self) -> str:
        more = [f"  … and {self.count - MOST_LINES:,} more"] if self.count > MOST_LINES else []
        return "\n".join([*(f"  {line}" for line in self.first), *more])


@dataclass(slots=True)
class Figures:
    """Rows of one table: read, new here, here already from an earlier run, and left out."""

    read: int = 0
    made: int = 0
    known: int = 0
    left_out: int = 0


@dataclass(slots=True)
class Summary:
    """What an import did."""

    figures: dict[str, Figures] = field(default_factory=dict)
    left_out: Lines = field(default_factory=Lines)
    notes: Lines = field(default_factory=Lines)
    renumbered: int = 0

    def of(self, table: str) -> Figures:
        """The figures of a table."""
        return self.figures.setdefault(table, Figures())

    def leave_out(self, table: str, key: object, why: str) -> None:
        """Note a row that does not come over."""
        self.of(table).left_out += 1
        self.left_out.add(f"{table} {key}: {why}")

    def render(self, *, dry_run: bool) -> str:
        """The summary for people."""
        head = "Nothing was written: this is what an import would do." if dry_run else "Imported."
        lines = [head, "", f"{'':16}{'read':>12}{'new':>12}{'there':>12}{'left out':>12}"]
        lines += [
            f"{name:16}{f.read:12,}{f.made:12,}{f.known:12,}{f.left_out:12,}"
            for name, f in self.figures.items()
        ]
        if self.renumbered:
            self.notes.add(
                f"{self.renumbered:,} rows have another number here, since theirs was taken"
            )
        for title, found in (("Left out", self.left_out), ("To know", self.notes)):
            lines += ["", f"{title}:", str(found)] if found.count else []
        return "\n".join(lines)
