"""What a task is and may do: pure rules, no input or output."""
