"""Status and events of a TaskService, and the diagnosis of pods that do not start."""
