"""The chaos run: real processes, faults drawn from a seed, and a judgement from the database alone (docs/chaos.md)."""
